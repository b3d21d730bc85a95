"""The harness in short, all of N; and that it would see what it looks for."""

import collections
import itertools

import pytest

from tests.faults import damage, hits, hosts, lives, tell
from tests.faults.place import Place
from univar_jax.dataset import shards

KILLS, TERMS, FLIPS = 5, 3, 100


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The harness's folder."""
    return Place(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def against(place):
    """The run that nothing interrupted."""
    return lives.reference(place)


def assert_all(name, found):
    rows = tell.rows({name: found})
    assert rows
    assert all(row.held == row.of > 0 for row in rows), tell.table(rows)
    return {row.of for row in rows}


@pytest.mark.slow
def test_a_killed_run_loses_nothing(place, against):
    found = hits.kills(place, against, KILLS, seed=0)
    assert KILLS in assert_all("kills", found)
    assert any(trial["inside_save"] for trial in found["trials"])
    assert any(trial["newest"] for trial in found["trials"])


@pytest.mark.slow
def test_a_stopped_run_has_saved(place, against):
    assert TERMS in assert_all("terms", hits.terms(place, against, TERMS, seed=0))


@pytest.mark.slow
def test_every_flipped_byte_is_named(place):
    assert assert_all("flips", damage.flips(place, FLIPS, seed=0)) == {FLIPS}


@pytest.mark.slow
def test_exchanged_shards_are_named(place):
    assert assert_all("exchanged", damage.exchanged(place)) == {3}


@pytest.mark.slow
def test_two_processes_learn_what_one_does(place):
    assert assert_all("hosts", hosts.measure(place)) == {hosts.STEPS}


# -- what the harness would see ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_readers_that_check_nothing_find_nothing(place, monkeypatch):
    monkeypatch.setattr(shards.Shards, "read", lambda self, record: None)
    monkeypatch.setattr(shards, "verify", lambda data: None)
    found = damage.flips(place, 3, seed=0)
    assert [(row.held, row.of) for row in tell.rows({"flips": found})] == [(0, 3), (0, 3)]
    assert len(found["missed"]) == 6
    told = damage.exchanged(place)
    assert not any(told[name][reader] for name in ("cut short", "of another prepare") for reader in told[name])


def test_moments_are_functions_of_seed_and_trial():
    some = lambda seed: list(itertools.islice(lives.moments(seed, anywhere=0.2, save=0.4), 200))  # noqa: E731
    first = some(0)
    assert first == some(0) != some(1)
    assert [moment.trial for moment in first] == list(range(200))
    kinds = collections.Counter(moment.kind for moment in first)
    assert 20 <= kinds["anywhere"] <= 60 and 50 <= kinds["save"] <= 110 and 50 <= kinds["loop"] <= 110
    assert min(moment.share for moment in first) < 0.05 and max(moment.share for moment in first) > 0.95


TRIAL = {
    "run": 0,
    "doing": "saving step 7",
    "inside_save": True,
    "newest": 6,
    "computed": 7,
    "same": True,
    "went_on": 6,
}
RUN = {"hits": 1, "params": True, "moments": True, "steps_once": True, "losses": True, "left": []}


@pytest.mark.parametrize(
    ("trial", "run"),
    [
        ({"went_on": 5}, {}),
        ({"went_on": None}, {}),
        ({"same": False}, {}),
        ({"computed": 9}, {}),
        ({}, {"params": False}),
        ({}, {"moments": False}),
        ({}, {"losses": False}),
        ({}, {"steps_once": False}),
        ({}, {"left": ["7.orbax-checkpoint-tmp"]}),
    ],
)
def test_one_loss_shows_in_one_row(trial, run):
    short = lambda trial, run: [  # noqa: E731
        row for row in tell.rows({"kills": {"trials": [TRIAL, trial], "runs": [RUN, run]}}) if row.held < row.of
    ]
    assert short(TRIAL | {"run": 1}, RUN) == []
    [row] = short(TRIAL | trial | {"run": 1}, RUN | run)
    assert (row.held, row.of) == (1, 2)
    assert f"| {row.held} of {row.of} |" in tell.table([row])
