"""Which of several processes speaks, by the variables of a launcher."""

import pytest

from baichuan2 import launched
from baichuan2.cli.main import main
from baichuan2.errors import DataError, SettingsError


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_a_process_that_shares_with_nobody_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (launched.rank(), launched.num_processes(), launched.local_rank()) == (0, 1, 0)
    monkeypatch.setenv("RANK", "3")
    assert launched.is_first()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert not launched.is_first()


def test_failures_of_other_processes_come_later_and_with_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launched, "SECONDS_FOR_THE_FIRST", 0.01)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(DataError, match=r"^broken$"), launched.one_report():
        raise DataError("broken")
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(DataError, match=r"^process 3 on .*: broken$"), launched.one_report():
        raise DataError("broken")


def test_a_launcher_that_counts_wrongly_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(SettingsError, match="RANK must be a whole number"):
        launched.rank()
    assert main(["finetune", "-d", "x.json"]) == 2  # whatever else is wrong is told by whom it concerns
    assert capsys.readouterr().err == (
        "error: environment variable RANK must be a whole number, as torchrun sets it, got 'first'\n"
    )
