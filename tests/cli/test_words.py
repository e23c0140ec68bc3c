import string
from dataclasses import fields

import pytest

from baichuan2.cli.text import CHINESE, ENGLISH, Words, words_for


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LANG": "zh_CN.UTF-8"}, CHINESE),
        ({"LANG": "zh"}, CHINESE),
        ({"LANG": "en_US.UTF-8"}, ENGLISH),
        ({"LANG": "C.UTF-8"}, ENGLISH),
        ({}, ENGLISH),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "en_GB.UTF-8"}, ENGLISH),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "", "LC_MESSAGES": "zh_TW"}, CHINESE),
    ],
)
def test_auto_follows_the_locale(environment, expected):
    assert words_for("auto", environment) is expected


def test_a_named_language_ignores_the_locale():
    assert words_for("zh", {"LANG": "en_US"}) is CHINESE
    assert words_for("en", {"LANG": "zh_CN"}) is ENGLISH


def test_both_languages_fill_in_the_same_things():
    def names(text: str) -> list[tuple[str | None, str | None]]:
        return sorted((name, spec) for _, name, spec, _ in string.Formatter().parse(text) if name is not None)

    for item in fields(Words):
        assert names(getattr(CHINESE, item.name)) == names(getattr(ENGLISH, item.name)), item.name
        assert getattr(CHINESE, item.name) != getattr(ENGLISH, item.name)


def test_help_names_the_official_words():
    for words in (CHINESE, ENGLISH):
        assert all(word in words.help for word in ("exit", "clear", "vim", "stream", "Ctrl-C"))
