"""The benchmark of the scheduler on a GPU, where there is none: the refusal, and its whole way on the processor."""

import json

import pytest
import serve_gpu
import torch


def test_without_a_gpu_it_stops_with_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert serve_gpu.main([]) == 2
    assert capsys.readouterr().err.startswith("error: there is no GPU here")


@pytest.mark.slow
def test_the_whole_way_on_a_processor(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(serve_gpu, "COUNTS", (1, 2))
    monkeypatch.setattr(serve_gpu, "UNLIKE", 3)
    monkeypatch.setattr(serve_gpu, "REPLY", 4)
    page = tmp_path / "page.md"
    assert serve_gpu.main(["--device", "cpu", "--shape", "tiny", "--page", str(page)]) == 0
    figures = json.loads(page.with_suffix(".json").read_text())["figures"]
    assert [figure["requests"] for figure in figures] == [1, 2, 1, 2, 3]
    assert all(figure["tokens_per_second"] > 0 for figure in figures)
    assert "| scheduler, unlike lengths | 3 |" in capsys.readouterr().out
