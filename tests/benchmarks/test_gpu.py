"""The benchmark of a GPU, where there is none: arguments, the refusal, and its whole way on the processor."""

import json
from pathlib import Path

import gpu
import pytest
import torch


def test_without_a_gpu_it_stops_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert capsys.readouterr().err.startswith("error: no GPU was found")


@pytest.mark.parametrize(
    "flags", [["--turns", "0"], ["--batches", "0"], ["--prompt", "4096"], ["--bits", "3"], ["--engines", "x"]]
)
def test_arguments_that_cannot_work_are_refused(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        gpu.parse_arguments(flags)
    assert stopped.value.code == 2


@pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning")  # renamed within the versions that we allow
def test_the_whole_way_on_the_processor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--turns", "1", "--prompt", "4", "--tokens", "2", "--batches", "2", "--bits", "16"]
    assert gpu.main(["--device", "cpu", "--shape", "tiny", *sizes, "--output", str(tmp_path)]) == 0
    report = json.loads(next(tmp_path.glob("gpu_cpu_*.json")).read_text(encoding="utf-8"))
    figures = {figure["engine"]: figure for figure in report["figures"]}
    for engine in ("baichuan2", "baichuan2, without graphs", "transformers", "transformers, static cache, compiled"):
        assert figures[engine]["decode"] is not None, figures[engine]["note"]
        assert figures[engine]["decode"] > 0
    assert "say nothing about a GPU" in next(tmp_path.glob("gpu_cpu_*.md")).read_text(encoding="utf-8")
    assert report["bytes_for_a_token"] == 2 * (2 * (4 * 256**2 + 3 * 256 * 512 + 2 * 256) + 256 + 4096 * 256)
    assert "baichuan2" in capsys.readouterr().out
