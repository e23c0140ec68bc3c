"""How many threads compute a step is found out by how long steps take."""

from baichuan2.engine.team import PROBE, Team


def run(team, num_steps, seconds):
    """What was chosen, for steps of four rows that take `seconds[threads]`."""
    chosen = []
    for _ in range(num_steps):
        threads = team.threads(4)
        team.took(4, threads, seconds[threads])
        chosen.append(threads)
    return chosen


def test_short_steps_are_computed_by_whoever_is_faster():
    assert run(Team(2), 200, {1: 0.001, 2: 0.005}).count(1) > 190
    assert run(Team(2), 200, {1: 0.002, 2: 0.001}).count(2) > 190


def test_long_steps_are_computed_by_all_and_nothing_is_tried():
    assert run(Team(2), 100, {1: 0.01, 2: 0.2}) == [2] * 100


def test_a_machine_that_gets_quiet_is_noticed():
    team = Team(2)
    run(team, 100, {1: 0.001, 2: 0.005})
    assert run(team, 40 * PROBE, {1: 0.001, 2: 0.0005})[-1] == 2


def test_numbers_of_rows_are_judged_apart():
    team = Team(4)
    run(team, 50, {1: 0.001, 4: 0.005})
    assert team.threads(4) == 1
    assert team.threads(64) == 4


def test_one_thread_is_one_thread():
    assert run(Team(1), 5, {1: 0.001}) == [1] * 5
