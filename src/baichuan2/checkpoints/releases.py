"""What was officially released: names, hub ids, files with their digests, and the terms they come under.

Sizes and digests are those that the pages of the hub state for each file; the weights themselves were not seen here. A
size has three digits, as the hub shows it. What is not known is None, never a guess.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from baichuan2.errors import CheckpointError

__all__ = ["RELEASES", "Release", "WeightFile", "find_release", "release_meant", "release_of"]

OWNER = "baichuan-inc"
# of every Baichuan 2 repository; 2,001,107 bytes
TOKENIZER_SHA256 = "79452955be6b419a65984273a9f08af86042e1c2a75ee3ba989cbf620a133cc2"
V1_13B_TOKENIZER_SHA256 = "f7d1ab69d25c74644af5c5e4dcd1cc6e96d33783dbd257b6bdea55b643c72813"
INTERMEDIATE = "Baichuan2-7B-Intermediate-Checkpoints"
INTERMEDIATE_BILLIONS = range(220, 2421, 220)
NUM_SUGGESTIONS = 4
LONGEST_NAME = 100

Licence = Literal["baichuan2", "baichuan-13b", "baichuan-7b", "demo"]


@dataclass(frozen=True)
class WeightFile:
    """A file of weights: its bytes to three digits, and its SHA-256 where a page of the hub states it."""

    name: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Release:
    """One set of weights as its authors published it.

    `repo` and `revision`: on Hugging Face, None for the embedded models and for the default branch. `modelscope`: the
    id there, None where it is not known. `shape`: which of the released shapes (`checkpoints.plan`). `stored`: the
    numbers of its files. `tokens`: of pre-training, in billions. `files`: empty where the hub's listing is not known.
    """

    name: str
    repo: str | None
    revision: str | None = None
    modelscope: str | None
    generation: Literal["2", "1", "demo"]
    shape: Literal["7b", "13b", "demo"]
    kind: Literal["base", "chat"]
    stored: Literal["bfloat16", "nf4"]
    parameters: int
    vocabulary: int
    context: int
    tokens: int | None
    files: tuple[WeightFile, ...] = ()
    tokenizer_sha256: str | None = None
    licence: Licence

    @property
    def size(self) -> int | None:
        """Bytes of all files of weights, None where the listing is not known."""
        return sum(file.size for file in self.files) or None

    @property
    def known_digests(self) -> dict[str, str]:
        """File name -> SHA-256 of the files whose digest is known."""
        known = {file.name: file.sha256 for file in self.files if file.sha256 is not None}
        if self.tokenizer_sha256 is not None:
            known["tokenizer.model"] = self.tokenizer_sha256
        return known

    @property
    def spellings(self) -> tuple[str, ...]:
        """The names that mean this release and no other, the one that is shown first."""
        if self.repo is None:
            return (self.name,)
        other = [self.name]
        bare = self.repo.partition("/")[2]
        if self.revision is None:
            other += [bare, self.repo]
        else:
            other += [f"{bare}@{self.revision}", f"{self.repo}@{self.revision}"]
        if self.generation == "1":
            other.append("v1-" + bare.partition("-")[2])
        if self.name == "13B-Chat-v2":
            other += ["13B-Chat@v2.0", "13B-Chat@v2", "Baichuan2-13B-Chat-v2"]
        if self.tokens is not None and self.revision is not None and self.revision.startswith("train_"):
            other += [f"7B@{self.revision}", f"7B@{self.tokens}B", self.revision]
        return tuple(dict.fromkeys(other))


def _sharded(count: int, *files: tuple[int, str | None]) -> tuple[WeightFile, ...]:
    """The files of a checkpoint in `count` shards: megabytes and digest of each."""
    return tuple(
        WeightFile(f"pytorch_model-{number:05}-of-{count:05}.bin", megabytes * 10**6, digest)
        for number, (megabytes, digest) in enumerate(files, start=1)
    )


def _whole(megabytes: int, digest: str | None) -> tuple[WeightFile, ...]:
    return (WeightFile("pytorch_model.bin", megabytes * 10**6, digest),)


def _second(
    name: str,
    files: tuple[WeightFile, ...],
    *,
    repo: str | None = None,
    revision: str | None = None,
    tokens: int = 2600,
) -> Release:
    """A release of Baichuan 2, whose name tells its size and kind."""
    repo = repo or f"Baichuan2-{name}"
    is_7b = name.startswith("7B")
    return Release(
        name=name,
        repo=f"{OWNER}/{repo}",
        revision=revision,
        modelscope=f"{OWNER}/{repo}" if revision is None else None,
        generation="2",
        shape="7b" if is_7b else "13b",
        kind="chat" if "Chat" in name else "base",
        stored="nf4" if name.endswith("4bits") else "bfloat16",
        parameters=7_505_973_248 if is_7b else 13_896_668_160,
        vocabulary=125_696,
        context=4096,
        tokens=tokens,
        files=files,
        tokenizer_sha256=TOKENIZER_SHA256,
        licence="baichuan2",
    )


def _first(
    name: str, files: tuple[WeightFile, ...], *, modelscope: str, parameters: int, tokenizer_sha256: str | None
) -> Release:
    """A release of Baichuan 1."""
    is_7b = name == "Baichuan-7B"
    return Release(
        name=name,
        repo=f"{OWNER}/{name}",
        modelscope=f"{OWNER}/{modelscope}",
        generation="1",
        shape="7b" if is_7b else "13b",
        kind="chat" if name.endswith("Chat") else "base",
        stored="bfloat16",
        parameters=parameters,
        vocabulary=64_000,
        context=4096,
        tokens=1200 if is_7b else 1400,
        files=files,
        tokenizer_sha256=tokenizer_sha256,
        licence="baichuan-7b" if is_7b else "baichuan-13b",
    )


def _demo(name: str, kind: Literal["base", "chat"]) -> Release:
    """An embedded model; its numbers are read from its folder by who shows them."""
    return Release(
        name=name,
        repo=None,
        modelscope=None,
        generation="demo",
        shape="demo",
        kind=kind,
        stored="bfloat16",
        parameters=0,
        vocabulary=4096,
        context=0,
        tokens=None,
        licence="demo",
    )


RELEASES: tuple[Release, ...] = (
    _second(
        "7B-Base",
        _sharded(
            2,
            (9930, "b3917a0a5d6cb553026230075ada3b86c5081eedc881a2905fb5f5c29a3ddde1"),
            (5080, "ac7bc3c39a61f9cf98620b4f44b0af07ded04d68b7263c4e1a72517b5006c40e"),
        ),
    ),
    _second("7B-Chat", _whole(15_000, "594b540d36751fa3b199c609617deafc0329050937c0767fdfb2d38b72d8bec9")),
    _second("7B-Chat-4bits", _whole(5400, "ab8a55567b49aa9c2f5e33ee4b27af94722dbf3206b276fc58bddebe2cf6b1c3")),
    _second(
        "13B-Base",
        _sharded(
            3,
            (9970, "015ac5047b08f017dccd0c509c7425d17932d33af28affe170ada3c96c0c5041"),
            (9950, "37f8f5e13e4a4e4d90a94f527c0ff89b10c78bd0f78af6f7c0bea77f4203714b"),
            (7870, "6fcde694f470709e24b7fa4c8a1939d798c60bdb9ad6f3ab096c4729a16074b4"),
        ),
    ),
    _second(
        "13B-Chat",
        _sharded(
            3,
            (9970, "ed5f863097bc541ff1f47f5d5ac875cbac2c1269c384bc77f540ffca4cc2cb5d"),
            (9950, "13ac578202dce2688d81fcee55e332d898ad980cec5019a7de386ea9760302c0"),
            (7870, "95a78916eaeb9891bde335461ba8a474b039e6c5f17a12f987dc03a93372a812"),
        ),
    ),
    _second("13B-Chat-v2", (), repo="Baichuan2-13B-Chat", revision="v2.0"),
    _second("13B-Chat-4bits", _whole(9080, "1d805c460a12cd7be30c7b9a200ad7a14364abc85617a666f486788a4ab11742")),
    *(
        _second(f"7B@{billions:05}B", (), repo=INTERMEDIATE, revision=f"train_{billions:05}B", tokens=billions)
        for billions in INTERMEDIATE_BILLIONS
    ),
    _first(
        "Baichuan-7B",
        _whole(14_000, None),
        modelscope="baichuan-7B",
        parameters=7_000_559_616,
        tokenizer_sha256=None,
    ),
    _first(
        "Baichuan-13B-Base",
        _sharded(
            3,
            (9970, "c1985f3f8941d166caa1afda22d013c775a751a645cc6fc871744149c1e59f31"),
            (9950, "eb82b851d8536d5c5f9d89713d41f2f54f849bc705e6f8c91697557de53fb9bd"),
            (6610, None),
        ),
        modelscope="Baichuan-13B-Base",
        parameters=13_264_901_120,
        tokenizer_sha256=V1_13B_TOKENIZER_SHA256,
    ),
    _first(
        "Baichuan-13B-Chat",
        _sharded(
            3,
            (9970, "493368dd0c14f9e93a9359dcdbbe1640a70c5691851d502867e46df5e3e72e50"),
            (9950, "83b12d88f4aa459f377dd714866fa2b81c99e88fefec727286ea302515ef4aed"),
            (6610, "788ef65efe2ce412605cc81a056db2784235cec23cfccd1d9d3bed64b3e4d3be"),
        ),
        modelscope="Baichuan-13B-Chat",
        parameters=13_264_901_120,
        tokenizer_sha256=None,
    ),
    _demo("demo-chat", "chat"),
    _demo("demo-base", "base"),
)


def _key(name: str) -> str:
    """What is the same in all spellings of a name: neither case nor separators tell releases apart."""
    return re.sub(r"[\s_]+", "-", name.strip().lower())


_BY_KEY = {_key(spelling): release for release in RELEASES for spelling in release.spellings}


def release_of(repo: str, revision: str | None) -> Release | None:
    """The release that lies in a repository of Hugging Face at a revision, None where it is no official one."""
    for release in RELEASES:
        if release.repo is not None and release.repo.lower() == repo.lower() and release.revision == revision:
            return release
    return None


def find_release(name: str) -> Release | None:
    """The release that `name` means: `7B-Chat`, `13b-chat-v2`, `7B@00220B`, `Baichuan-7B`; None where it is none.

    Raises:
        CheckpointError: it means several, or comes close to one; the message names them.
    """
    if not 0 < len(name) <= LONGEST_NAME:
        return None
    key = _key(name)
    found = _BY_KEY.get(key)
    if found is not None or "/" in key:  # another id of the hub is nobody's misspelling
        return found
    parts = set(re.split(r"[-@]", key)) - {"baichuan2"}
    fitting = [
        release
        for release in RELEASES
        if parts and any(parts <= set(re.split(r"[-@/]", _key(spelling))) for spelling in release.spellings)
    ]
    if fitting:
        raise CheckpointError(f"{name!r} may mean {_listed(fitting)}: say which (baichuan2 models lists them all)")
    close = difflib.get_close_matches(key, _BY_KEY, NUM_SUGGESTIONS, cutoff=0.7)
    if close:
        near = {_BY_KEY[match].name: _BY_KEY[match] for match in close}.values()
        raise CheckpointError(
            f"there is no release {name!r}: did you mean {_listed(near)}? (baichuan2 models lists them all)"
        )
    return None


def release_meant(name: str | None) -> Release | None:
    """The release that `name` means where a model is named; a file or folder, a path, another id of the hub mean none.

    Raises:
        CheckpointError: as `find_release`.
    """
    if not name or len(name) > LONGEST_NAME or "\\" in name or name.startswith((".", "~")):
        return None
    return None if ("/" in name and "@" not in name) or Path(name).exists() else find_release(name)


def _listed(releases: Iterable[Release]) -> str:
    names = [release.name for release in releases]
    rest = f" or {len(names) - NUM_SUGGESTIONS} others" if len(names) > NUM_SUGGESTIONS else ""
    return " or ".join(names[:NUM_SUGGESTIONS]) + rest if not rest else ", ".join(names[:NUM_SUGGESTIONS]) + rest
