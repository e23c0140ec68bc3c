"""OpenAI_api.py by its official name, asked as the official README asks it."""

import subprocess
import sys
from pathlib import Path

import httpx

from tests.server.processes import serving

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "OpenAI_api.py"


def test_it_answers_what_the_official_one_answers():
    with serving(program=[str(SCRIPT)]) as server:
        assert server.url.startswith("http://127.0.0.1:")  # the official one listened for everybody
        body = {"messages": [{"role": "user", "content": "你好"}], "stream": False}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body).json()
        choice = answer["choices"][0]
        assert (answer["object"], answer["model"]) == ("chat.completion", "demo-chat")
        assert (choice["index"], choice["finish_reason"]) == (0, "stop")
        assert (choice["message"]["role"], bool(choice["message"]["content"])) == ("assistant", True)
        assert {"prompt_tokens", "completion_tokens", "total_tokens"} <= set(answer["usage"])
        assert server.stop() == 0


def test_it_is_short_and_says_what_is_missing():
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) <= 10
    done = subprocess.run([sys.executable, "-S", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: baichuan2 is not installed: run  pip install -r requirements.txt\n"
