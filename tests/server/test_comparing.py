"""`baichuan2 compare` with this server as B: what is the same, and what a server cannot tell."""

import json

from baichuan2.cli.comparison_text import ENGLISH
from baichuan2.cli.main import main
from tests.bench.comparison_folders import write_prompts


def test_a_server_that_runs_the_same_model_says_the_same(running_server, tmp_path, capsys):
    prompts = write_prompts(tmp_path / "prompts.jsonl")

    def command(a: str, b: str) -> list[str]:
        few = ["--max-new-tokens", "8", "--threads", "1", "--device", "cpu"]
        return ["compare", a, b, "--prompts", str(prompts), *few]

    assert main([*command("demo-chat", f"{running_server}/v1"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"]["level"] == "same-text"
    assert found["quality"] is None
    assert found["logprob_difference"] < 1e-3
    assert [finding["num_different"] for finding in (found["text_ids"], found["chat_ids"])] == [0, 0]
    assert [finding["num_prompts"] for finding in (found["text_ids"], found["chat_ids"])] == [2, 2]
    assert main([*command("demo-base", running_server), "--language", "en"]) == 0
    out = capsys.readouterr().out
    assert ENGLISH.cause_served in out
    assert ENGLISH.ids_counted.format(count=2) in out
    assert ENGLISH.replies_part.split("{")[0] in out
    assert ENGLISH.not_available in out
