"""The demo model as a llama.cpp file: the same weights, told back exactly, and queries that turn the same way."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from baichuan2.convert.gguf_layout import to_halves, to_neighbours
from baichuan2.model.rope import rotate
from tests.tiny import tiny_model

pytest.importorskip("gguf", reason="the gguf package writes and reads the files of llama.cpp")
from benchmarks.quantisation_gguf import read_contents, read_state, write_gguf


def test_neighbours_turn_as_halves_do() -> None:
    """llama.cpp turns values 2j and 2j + 1 of a head by the angle by which we turn j and j + D/2."""
    generator = torch.Generator().manual_seed(0)
    heads, width, inputs = 3, 8, 16
    weight = torch.randn(heads * width, inputs, generator=generator)
    states = torch.randn(inputs, generator=generator)
    angles = torch.rand(width // 2, generator=generator) * 3
    halves = (weight @ states).view(1, heads, 1, width)
    ours = rotate(halves, torch.cat((angles, angles)).cos(), torch.cat((angles, angles)).sin()).view(heads, width)
    first, second = (to_neighbours(weight, heads) @ states).view(heads, width // 2, 2).unbind(-1)
    theirs = torch.stack((first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()))
    torch.testing.assert_close(theirs.movedim(0, 1).flatten(1), ours)
    torch.testing.assert_close(to_halves(to_neighbours(weight, heads), heads), weight, rtol=0, atol=0)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    model = tiny_model("7b")
    path = tmp_path / "model.gguf"
    write_gguf(model, path)
    state = read_state(path, model.config.num_attention_heads)
    expected = {name: tensor for name, tensor in model.state_dict().items() if "inv_freq" not in name}
    expected["lm_head.weight"] = normalize(expected["lm_head.weight"])
    assert set(state) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0, msg=name)
    contents = read_contents(path)
    assert contents.linear_bits == contents.all_bits == 32
    assert contents.types["ffn_down"] == {"F32": 2}
    assert contents.num_bytes == path.stat().st_size


def test_a_file_without_reordered_queries_would_be_noticed(tmp_path: Path) -> None:
    """The stored rows differ from ours: the order of llama.cpp is not the identity."""
    from gguf import GGUFReader

    model = tiny_model("7b")
    path = tmp_path / "model.gguf"
    write_gguf(model, path)
    stored = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in GGUFReader(path).tensors}
    query, _, value = model.model.layers[0].self_attn.W_pack.weight.detach().chunk(3)
    head = query[:32]
    assert torch.equal(stored["blk.0.attn_q.weight"][:4], head[[0, 16, 1, 17]])
    assert torch.equal(stored["blk.0.attn_v.weight"], value)
