"""Planted moves are found, and false alarms and bands keep what they promise; each test prints what it found."""

import numpy as np
import pytest
from scipy import stats
from threadpoolctl import threadpool_limits

from univar_jax.statistics import distances, nearest, noise, resamples, shifts

REPEATS = 500


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    monkeypatch.setattr(resamples, "PERMUTATIONS", 99)
    monkeypatch.setattr(resamples, "RESAMPLES", 300)
    monkeypatch.setattr(noise, "LABELLINGS", 200)
    with threadpool_limits(1):  # small matrices, many times: threads would only wait for one another
        yield


def answers(draws, asked_qd, shift=0.0, times=1):
    """Unit vectors of one source: its home, the question's effect, a shift across the home, and noise."""
    d = asked_qd.shape[1]
    mean_qd = np.eye(d)[0] + shift * np.eye(d)[1] + asked_qd
    x_nd = np.repeat(mean_qd, times, axis=0)
    x_nd = x_nd + draws.normal(size=x_nd.shape) / np.sqrt(d)
    return (x_nd / np.linalg.norm(x_nd, axis=1, keepdims=True)).astype(np.float32)


def planted(seed, questions=30, shift=0.0, times=(1, 1), effect=1.0, d=12):
    """Vectors and pair of before and after; questions move both alike, as much as noise does."""
    draws = np.random.default_rng(seed)
    asked = effect * draws.normal(size=(questions, d)) / np.sqrt(d)
    z_nd = np.concatenate([answers(draws, asked, at, t) for at, t in zip((0, shift), times, strict=True)])
    cells = np.concatenate([np.repeat(np.arange(questions), t) for t in times])
    return z_nd, distances.Pair(np.arange(len(z_nd)), questions * times[0], cells, questions, "question")


def share(hits):
    return f"{np.mean(hits):.3f} of {len(hits)}"


def likely(hits, rate):
    """Whether a rate explains so many hits, by a binomial test that errs once in a thousand."""
    return stats.binomtest(int(np.sum(hits)), len(hits), rate).pvalue > 1e-3


def table(parts, langs="eng"):
    """A table of named sources, each (vectors, questions)."""
    source = np.concatenate([[name] * len(z) for name, (z, _) in parts.items()]).astype(object)
    q = np.concatenate([q for _, q in parts.values()])
    coded, lots = distances.by_lot([("question", q), ("question group", q)], 0)
    z_nd = np.concatenate([z for z, _ in parts.values()])
    return nearest.Table(z_nd, source, np.full(len(q), langs, object), np.zeros(len(q), int), coded, lots, 0)


def test_a_planted_shift_is_found_and_none_is_seldom_called_one():
    found = {}
    for shift in (0.0, 0.35):
        p = np.array([distances.test(*planted(seed, shift=shift), seed, 0)[1] for seed in range(REPEATS)])
        found[shift] = p <= 0.05
    print(f"\nenergy: false alarms {share(found[0.0][:, 0])}, power {share(found[0.35][:, 0])}")
    print(f"shift:  false alarms {share(found[0.0][:, 1])}, power {share(found[0.35][:, 1])}")
    for i in (0, 1):
        assert likely(found[0.0][:, i], 0.05) and found[0.35][:, i].mean() > 0.8


@pytest.mark.parametrize(
    ("times", "effect", "of"),
    [
        ((1, 1), 3.0, "questions"),
        pytest.param((4, 4), 1.0, "answers", marks=pytest.mark.slow),
        ((3, 2), 1.0, "answers"),
    ],
)
def test_the_noise_band_holds_repetitions_of_the_same_source(times, effect, of, monkeypatch):
    """Whatever questions do to both alike, and whether one answer or several of each are there."""
    monkeypatch.setattr(resamples, "PERMUTATIONS", 1)  # only the distances are looked at
    inside = []
    for seed in range(REPEATS):
        z_nd, drawn = planted(seed, questions=40, times=times, effect=effect)
        labelled = noise.labelled(drawn, seed, 0)
        assert labelled.of == of
        far = distances.test(z_nd, drawn, seed, 0)[0]
        inside.append([lo <= x <= hi for x, (lo, hi) in zip(far[::-1], noise.bands(z_nd, labelled), strict=True)])
    inside = np.array(inside)
    print(f"\n{of}, {times}: shift in its band {share(inside[:, 0])}, energy {share(inside[:, 1])}")
    assert (inside.mean(0) > 0.91).all() and (inside.mean(0) < 0.99).all()


def test_a_move_that_is_there_leaves_the_band_as_it_is_without():
    """What all questions share cancels where the two change places."""
    still, moved = (
        np.mean([noise.bands(z, noise.labelled(drawn, 0, 0))[0] for z, drawn in made], axis=0)
        for made in ([planted(s, 40, shift) for s in range(40)] for shift in (0.0, 0.5))
    )
    assert np.abs(moved / still - 1).max() < 0.15


def test_halves_of_answers_are_brought_to_the_size_of_the_whole():
    _, drawn = planted(0, 40, times=(4, 4))
    assert noise.labelled(drawn, 0, 0).factor == pytest.approx(0.5)
    labelled = noise.labelled(planted(0, 40, times=(1, 3))[1], 0, 0)
    assert labelled.of == "questions" and len(labelled.rows) == 80 and labelled.factor == pytest.approx(2 / 3)
    sides = labelled.first_hn
    assert (sides.sum(1) == 40).all() and len(np.unique(sides, axis=0)) > 190


def test_the_interval_covers_the_shift_of_as_many_questions():
    """Its upper end, on which bounds rest, falls short no more often than it may."""
    far, ends = [], []
    for seed in range(200):
        z_nd, drawn = planted(seed, 40, 0.6)
        part = table({"a": (z_nd[:40], np.arange(40)), "b": (z_nd[40:], np.arange(40))})
        far.append(distances.test(z_nd, drawn, seed, 0)[0])
        ends.append(shifts._intervals(part, drawn, far[-1], seed))
    truth, ends = np.mean(far, axis=0), np.array(ends)
    inside, short = (ends[..., 0] <= truth) & (truth <= ends[..., 1]), ends[..., 1] < truth
    for i, name in enumerate(("energy", "shift")):
        print(f"\n{name}: covered {share(inside[:, i])}, upper end short {share(short[:, i])}", end="")
    assert (inside.mean(0) >= 0.90).all() and (short.mean(0) <= 0.06).all()


def test_the_value_that_was_moved_is_named_and_a_source_ahead_is_what_it_moved_towards():
    draws, q = np.random.default_rng(0), np.arange(60)
    asked = draws.normal(size=(60, 12)) / np.sqrt(12)
    value = np.array(["honesty", "loyalty", "care", "rare"], object)[np.where(q < 5, 3, q % 3)]
    about = np.concatenate([asked + 1.2 * np.eye(12)[1] * (value == "honesty")[:, None]])
    parts = {"before": (answers(draws, asked), q), "after": (answers(draws, about), q)}
    parts |= {"ahead": (answers(draws, asked, 1.5), q), "behind": (answers(draws, asked, -1.5), q)}
    parts["few"] = answers(draws, asked)[:6], q[:6]
    made = table(parts)
    everything = np.ones(len(made.z_nd), bool)
    values = np.concatenate([value[rows] for _, rows in parts.values()])
    row, drawn = shifts.measure(made, everything, values, "before", "after", 0)
    assert len(drawn.rows) == 120 and row["shared"] == 60 and row["control"] is None
    assert row["shift"] > row["noise_band"][1] and row["p"] == 0.01
    found = {name: part["q"] for name, part in row["by_value"].items()}
    assert found["honesty"] <= 0.03 and found["loyalty"] > 0.05 and found["care"] > 0.05
    rare = row["by_value"]["rare"]
    assert rare["not_enough"] == {"groups": 5, "rows": 5, "needed_groups": 10, "needed_rows": 5}
    assert rare["shift"] is rare["p"] is rare["q"] is rare["noise_band"] is None and found["rare"] is None
    assert [(t["source"], t["verdict"]) for t in row["toward"]] == [("ahead", "toward"), ("behind", "away")]
    assert row["toward"][0]["change"] == pytest.approx(row["toward"][0]["after"] - row["toward"][0]["before"], abs=1e-5)


def test_the_distance_to_a_third_has_no_noise_of_its_own_in_it():
    """It is that over pairs of rows of different groups, so that fewer answers are no move away from all others."""
    draws, q = np.random.default_rng(0), np.repeat(np.arange(8), 3)
    asked = draws.normal(size=(8, 12))
    x_nd, y_nd = answers(draws, asked, times=3), answers(draws, asked, 0.8, times=3)
    times_rg = np.stack([np.ones(8), draws.integers(3, size=8)])
    found_r = shifts._far(times_rg, *(shifts._summed(z_nd, q, 8) for z_nd in (x_nd, y_nd)))
    for times_g, found in zip(times_rg, found_r, strict=True):
        w_nn = np.where(q[:, None] == q, 0, np.outer(times_g[q], times_g[q]))
        xy, xx, yy = ((w_nn * (a @ b.T)).sum() / w_nn.sum() for a, b in ((x_nd, y_nd), (x_nd, x_nd), (y_nd, y_nd)))
        assert found == pytest.approx(1 - xy / np.sqrt(xx * yy), rel=1e-5)


def test_control_answers_are_kept_apart_and_equal_answers_have_not_moved():
    draws, q = np.random.default_rng(1), np.arange(40)
    z_nd = answers(draws, draws.normal(size=(40, 12)))
    made = table({"before": (z_nd, q), "after": (z_nd, q)})
    about = np.tile(q >= 15, 2)
    row, _ = shifts.measure(made, about, np.full(80, "", object), "before", "after", 0)
    assert row["shared"] == 25 and row["control"]["shared"] == 15 and "q" not in row["control"]
    assert row["shift"] == pytest.approx(0, abs=1e-6) and row["p"] > 0.5 and row["by_value"] == {}
    assert row["noise_band"] == pytest.approx([0, 0], abs=1e-6)


def test_no_common_question_and_too_few_are_told_apart():
    draws, q = np.random.default_rng(2), np.arange(30)
    z_nd = answers(draws, draws.normal(size=(30, 12)))
    made = table({"a": (z_nd, q), "b": (z_nd, q + 100), "c": (z_nd[:4], q[:4])})
    nothing, _ = shifts.figure(made, made.rows("a"), made.rows("b"), 0)
    assert nothing["shared"] == 0 and nothing["unit"] is None and nothing["not_enough"]["groups"] == 0
    few, _ = shifts.figure(made, made.rows("a"), made.rows("c"), 0)
    assert few["shared"] == 4 and few["unit"] == "question" and few["not_enough"]["rows"] == 4


def test_q_is_scipys_over_what_was_tested():
    rows = [{"p": 0.01, "shift_p": 0.5, "q": None, "shift_q": None} for _ in range(3)]
    rows[1] |= {"p": 0.04, "shift_p": 0.02}
    rows.append({"p": None, "shift_p": None, "q": None, "shift_q": None})
    shifts.add_q(rows)
    assert [row["q"] for row in rows] == [0.015, 0.04, 0.015, None] and rows[1]["shift_q"] == 0.06


def test_the_ellipse_holds_arrows_of_a_source_that_did_not_move():
    inside = []
    for seed in range(100):
        z_nd, drawn = planted(seed, 40)
        xy_n2 = z_nd[:, 2:4].astype(float) * [1, 3]
        wide, high, angle = noise.ellipse(xy_n2, noise.labelled(drawn, seed, 0))
        step = xy_n2[40:].mean(0) - xy_n2[:40].mean(0)
        turn = np.radians(angle)
        along = step @ [np.cos(turn), np.sin(turn)], step @ [-np.sin(turn), np.cos(turn)]
        inside.append((2 * along[0] / wide) ** 2 + (2 * along[1] / high) ** 2 <= 1)
    print(f"\narrows within: {share(inside)}")
    assert 0.86 < np.mean(inside) <= 1 and wide > high
    assert noise.ellipse(np.full((80, 2), np.nan), noise.labelled(drawn, 0, 0)) == (0, 0, 0)
