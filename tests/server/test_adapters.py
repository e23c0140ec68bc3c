"""Adapters at the server: each a model of its own name, beside one base."""

from types import SimpleNamespace

import pytest

from baichuan2.checkpoints.load import load_for_replies
from baichuan2.errors import SettingsError
from baichuan2.server.service import names_of
from baichuan2.settings import LoadSettings, ServeSettings
from tests.checkpoints.adapter_folders import write_adapter
from tests.checkpoints.folders import write_folder
from tests.server.apps import asking

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
QUESTION = {"prompt": [300, 301, 302, 303], "max_tokens": 12, "temperature": 0, "ignore_eos": True}


def test_clients_choose_by_name(tmp_path) -> None:
    base = write_folder(tmp_path / "base", "7b", "safetensors")
    paths = {name: write_adapter(tmp_path / name, base, seed=seed) for seed, name in enumerate(("law", "poems"))}
    text = ",".join(f"{name}={path}" for name, path in paths.items())
    loaded = load_for_replies(settings=LoadSettings(device="cpu", adapter=text))
    assert loaded.adapters == ("law", "poems")
    with asking(loaded) as client:
        listed = client.get("/v1/models").json()["data"]
        assert [(one["id"], one["parent"]) for one in listed] == [("base", None), ("law", "base"), ("poems", "base")]
        found = {}
        for name in (None, "base", "law", "poems"):
            answer = client.post("/v1/completions", json=QUESTION | ({} if name is None else {"model": name}))
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"] == (name or "base")
            found[name] = answer.json()["choices"][0]["text"]
        assert found[None] == found["base"]
        assert len(set(found.values())) == 3
        answer = client.post("/v1/completions", json=QUESTION | {"model": "nobody"})
        assert answer.status_code == 404
        assert "use base, law, poems" in answer.json()["error"]["message"]


def test_a_name_of_the_model_is_refused() -> None:
    loaded = SimpleNamespace(name="base", adapters=("law",))
    assert names_of(ServeSettings(), loaded) == ("base", "law")
    with pytest.raises(SettingsError, match="the model itself has that name"):
        names_of(ServeSettings(served_model_name="x,law"), loaded)
