"""The table of official releases: names that mean one of them, and facts that hang together."""

import hashlib
import re
from pathlib import Path

import pytest

from baichuan2.checkpoints.locate import locate
from baichuan2.checkpoints.plan import RELEASED_SHAPES, plan_model
from baichuan2.checkpoints.releases import RELEASES, TOKENIZER_SHA256, find_release, release_meant, release_of
from baichuan2.errors import CheckpointError
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.cost import num_parameters
from baichuan2.settings import PlanSettings


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("7B-Chat", "7B-Chat"),
        ("7b chat", "7B-Chat"),
        ("Baichuan2-7B-Chat", "7B-Chat"),
        ("baichuan-inc/Baichuan2-7B-Chat", "7B-Chat"),
        ("13b-chat-v2", "13B-Chat-v2"),
        ("13B-Chat@v2.0", "13B-Chat-v2"),
        ("baichuan-inc/Baichuan2-13B-Chat@v2.0", "13B-Chat-v2"),
        ("7B@00220B", "7B@00220B"),
        ("7b@220b", "7B@00220B"),
        ("train_02420B", "7B@02420B"),
        ("baichuan-7b", "Baichuan-7B"),
        ("v1-13B-chat", "Baichuan-13B-Chat"),
        ("demo-base", "demo-base"),
        ("somebody/Baichuan2-7B-Chat", None),
        ("baichuan-inc/Baichuan2-7B-Intermediate-Checkpoints", None),
        ("something else", None),
        ("", None),
        ("x" * 10_000, None),
    ],
)
def test_names(name: str, expected: str | None) -> None:
    found = find_release(name)
    assert (None if found is None else found.name) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("7B", r"'7B' may mean 7B-Base, 7B-Chat, 7B-Chat-4bits, 7B@00220B or \d+ others: say which"),
        ("4bits", "'4bits' may mean 7B-Chat-4bits or 13B-Chat-4bits: say which"),
        ("7B-Caht", "there is no release '7B-Caht': did you mean 7B-Chat?"),
    ],
)
def test_names_that_mean_several_or_nearly_one(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        find_release(name)
    with pytest.raises(CheckpointError, match=f"there is no folder {name}, and .*{message}"):
        locate(name)


def test_no_name_means_two_releases() -> None:
    spellings = [spelling.lower() for release in RELEASES for spelling in release.spellings]
    assert len(spellings) == len(set(spellings))
    for release in RELEASES:
        assert all(find_release(spelling) is release for spelling in release.spellings)
        if release.repo is not None:
            assert release_of(release.repo.upper(), release.revision) is release


def test_facts_hang_together() -> None:
    assert len(RELEASES) == 23
    assert sum(release.revision is not None and release.revision.startswith("train_") for release in RELEASES) == 11
    for release in RELEASES:
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in release.known_digests.values())
        if release.repo is None:
            continue
        config = BaichuanConfig(**RELEASED_SHAPES[release.shape], vocab_size=release.vocabulary)
        parts = num_parameters(config)
        total = parts.embedding + parts.attention + parts.mlp + parts.norms + parts.head
        assert release.parameters == total, release.name
        if release.stored == "bfloat16" and release.size is not None:
            assert release.size == pytest.approx(2 * total, rel=2e-3), release.name  # sizes have three digits
        if release.generation == "2":
            assert release.known_digests["tokenizer.model"] == TOKENIZER_SHA256
    digests = [file.sha256 for release in RELEASES for file in release.files if file.sha256 is not None]
    assert len(digests) == len(set(digests))


@pytest.mark.parametrize(("name", "like"), [("13b-chat", "13B"), ("7B@00220B", "7B")])
def test_a_release_is_planned_without_the_net(name: str, like: str) -> None:
    plan, expected = (plan_model(PlanSettings(model=model, memory="32GB", offline=True)) for model in (name, like))
    assert (plan.estimates, plan.stored) == (expected.estimates, "bfloat16")
    first = plan_model(PlanSettings(model="Baichuan-7B", memory="32GB", offline=True))
    assert first.estimates[1].head_copy == 0  # a plain head
    assert plan_model(PlanSettings(model="7B-Chat-4bits", memory="32GB", offline=True)).stored == "nf4"


def test_a_folder_goes_before_a_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "7B-Chat").mkdir()
    monkeypatch.chdir(tmp_path)
    assert release_meant("7B-Chat") is None
    assert release_meant("7B-Base") is find_release("7B-Base")
    assert locate("7B-Chat") == Path("7B-Chat")
    for name in (None, "", "./7B-Base", "some/7B-Base", "..\\7B-Base", "x" * 5_000):
        assert release_meant(name) is None


def test_the_real_tokenizer_has_the_known_digest() -> None:
    path = Path(__file__).parents[2].parent / "shared" / "tokenizer" / "tokenizer.model"
    if not path.is_file():
        pytest.skip("needs ../shared/tokenizer/tokenizer.model, which is third-party")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == TOKENIZER_SHA256
