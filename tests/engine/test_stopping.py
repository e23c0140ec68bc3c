"""Which ids end a reply."""

from types import SimpleNamespace

import pytest

from baichuan2.engine.stopping import stop_ids_from
from baichuan2.errors import SettingsError


def test_end_of_text_and_the_user_turn_end_a_reply():
    config = SimpleNamespace(eos_token_id=2, user_token_id=195)
    assert stop_ids_from(config) == {2, 195}
    assert stop_ids_from(config, user_turn=False) == {2}
    assert stop_ids_from(SimpleNamespace(eos_token_id=[2, 7])) == {2, 7}


def test_no_end_at_all_is_an_error():
    with pytest.raises(SettingsError, match="names no eos_token_id"):
        stop_ids_from(SimpleNamespace(eos_token_id=None))
