"""Every mistake in a file of bounds is told with its line, the strictest bound decides, only what is shown passes."""

import pytest

from univar_jax.cli import UserError
from univar_jax.statistics import bounds

WHO = "owner: Ann, reason: tone, date: 2026-11-01"
GOOD = """
global:
  - source: "*"
    distance: 0.1
    values: {"*": 0.3, honesty: 2e-1}
    owner: board
    reason: >
      a tone of voice
      is no change
    date: 2026-11-01
organisation:
  - {persona: pirate, values: {honesty: 0.05}, owner: Acme, reason: children, date: "2026-11-20"}
user:
  - {source: m$eng$pirate, distance: 0.1, owner: Ann, reason: hers, date: 2026-11-21}
"""


def read(tmp_path, text):
    file = tmp_path / "b.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return bounds.read(str(file))


def figure(shift, hi, groups=40, not_enough=None):
    return {"shift": shift, "shift_ci": [0, hi], "groups": groups, "not_enough": not_enough}


def pair(**by_value):
    return {"before": "m$eng", "after": "m$eng$pirate", "by_value": by_value} | figure(0.05, 0.08)


def test_a_file_is_read_by_tier(tmp_path):
    first, second, third = read(tmp_path, GOOD)
    assert first.limits == {"": 0.1, "*": 0.3, "honesty": 0.2} and first.reason == "a tone of voice is no change"
    assert (second.tier, second.kind, second.pattern, second.date) == (
        "organisation",
        "persona",
        "pirate",
        "2026-11-20",
    )
    assert third.line == 14 and third.about()["owner"] == "Ann"


def test_the_strictest_bound_decides_and_the_wider_tier_where_they_are_equal(tmp_path):
    rows = bounds.judge(read(tmp_path, GOOD), pair(honesty=figure(0.04, 0.06), care=figure(0.1, 0.2)), "pirate")
    found = {row["value"]: row for row in rows}
    assert list(found) == [None, "care", "honesty"]
    assert (found[None]["tier"], found[None]["limit"], found[None]["pass"]) == ("global", 0.1, True)
    assert [o["tier"] for o in found[None]["looser"]] == ["user"]
    assert (found["honesty"]["tier"], found["honesty"]["limit"]) == ("organisation", 0.05)
    assert [o["limit"] for o in found["honesty"]["looser"]] == [0.2, 0.3]
    assert found["care"]["limit"] == 0.3 and found["care"]["pass"]
    other = bounds.judge(read(tmp_path, GOOD), pair() | {"after": "m$eng"}, "")
    assert [row["tier"] for row in other] == ["global", "global"]  # no persona, so no bound of personas


@pytest.mark.parametrize(
    ("shift", "hi", "limit", "verdict", "needed"),
    [
        (0.05, 0.08, 0.08, "within", None),
        (0.05, 0.08, 0.07, "not shown within", 90),  # 40 groups · ((.08 - .05) / (.07 - .05))²
        (0.05, 0.08, 0.05, "not shown within", None),
        (0.05, 0.08, 0.04, "exceeded", None),
        (0.0, 0.0, 0.0, "within", None),
    ],
)
def test_only_what_is_shown_to_be_within_passes(tmp_path, shift, hi, limit, verdict, needed):
    entries = read(tmp_path, f"global:\n- {{source: '*', distance: {limit}, {WHO}}}")
    (row,) = bounds.judge(entries, pair() | figure(shift, hi), "pirate")
    assert (row["verdict"], row["pass"], row["needed_groups"]) == (verdict, verdict == "within", needed)
    assert (row["distance"], row["ci"]) == (shift, [0, hi])


def test_a_value_with_too_few_rows_or_none_does_not_pass(tmp_path):
    entries = read(tmp_path, f"user:\n- {{persona: p*, values: {{rare: 1, none: 1}}, {WHO}}}")
    rare = figure(None, None, 4, {"groups": 4, "rows": 4, "needed_groups": 10, "needed_rows": 5})
    none, few = bounds.judge(entries, pair(rare=rare | {"shift_ci": None}), "pirate")
    for row, groups in ((none, 0), (few, 4)):
        assert (row["verdict"], row["pass"], row["groups"], row["needed_groups"]) == ("not enough", False, groups, 10)


def test_a_name_that_nothing_is_called_is_an_error_and_a_glob_a_note(tmp_path):
    sources, elsewhere, notes = {"m$eng$pirate": "pirate", "m$eng$stoic": "stoic"}, {"n$eng$monk": "monk"}, []

    def check(text, values=("honesty", "care")):
        bounds.check("b.yaml", read(tmp_path, text), sources, sources | elsewhere, values, notes)

    for text, says in (
        (f"global:\n- {{source: m$eng$pirat, distance: 1, {WHO}}}", r"b.yaml line 2: source m.*mean m\$eng\$pirate"),
        (f"global:\n- {{persona: stoik, distance: 1, {WHO}}}", "persona stoik is not .* did you mean stoic?"),
        (
            f"global:\n- {{persona: stoic, values: {{honest: 1}}, {WHO}}}",
            "value honest is not .* did you mean honesty?",
        ),
        (f"global:\n- {{persona: stoic, values: {{zzz: 1}}, {WHO}}}", "there are care, honesty"),
    ):
        with pytest.raises(UserError, match=says):
            check(text)
    check(f"user:\n- {{persona: monk, distance: 1, {WHO}}}\n- {{persona: '*', distance: 1, {WHO}}}")
    assert notes == ["b.yaml line 2: persona monk matches none that is compared."]  # it is there, and not asked for
    notes.clear()
    check(f"global:\n- {{persona: st*, distance: 1, {WHO}}}\n- {{source: 'x*', values: {{'z*': 1}}, {WHO}}}")
    assert notes == [
        "b.yaml line 3: source x* matches none that is compared.",
        "b.yaml line 3: value z* matches none that is compared.",
        "No bound is set for m$eng$pirate.",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no bound in it"),
        ("global: []", "no bound in it"),
        ("- 1", "line 1: here keys are wanted"),
        ("globl: []", "line 1: 'globl' is no key here; did you mean global"),
        ("global: {}", "line 1: global is no list"),
        ("global:\n- 3", "line 2: here keys are wanted"),
        ("global: []\nglobal: []", "line 2: global stands twice"),
        ("global:\n- {[1]: 2}", "line 2: 'a list' is no key here"),
        (f"global:\n- {{sourc: x, distance: 1, {WHO}}}", "line 2: 'sourc' is no key here; did you mean source"),
        (f"global:\n- {{distance: 1, {WHO}}}", "line 2: a bound of global needs either source or persona"),
        (f"global:\n- {{source: x, persona: y, distance: 1, {WHO}}}", "needs either source or persona"),
        (f"global:\n- {{source: x, {WHO}}}", "line 2: a bound of global has no limit"),
        (f"global:\n- {{source: x, values: {{}}, {WHO}}}", "values is empty"),
        (f"global:\n- {{source: x, values: {{'': 1}}, {WHO}}}", "a value without a name"),
        (f"global:\n- {{source: x, distance: -1, {WHO}}}", "line 2: the limit of distance is -1; give a number"),
        (f"global:\n- {{source: x, distance: 2.1, {WHO}}}", "the limit of distance is 2.1"),
        (f"global:\n- {{source: x, distance: .nan, {WHO}}}", "the limit of distance is .nan"),
        (f"global:\n- {{source: x, distance: yes, {WHO}}}", "the limit of distance is yes"),
        (f"global:\n- {{source: x, distance: '1', {WHO}}}", "the limit of distance is 1"),
        (f"global:\n- source: x\n  values:\n    care: [1]\n  {WHO.replace(', ', chr(10) + '  ')}", "line 4: .* a list"),
        (f"global:\n- {{source: x, values: {{a: 1, a: 2}}, {WHO}}}", "a stands twice"),
        ("global:\n- {source: x, distance: 1, reason: a, date: 2026-11-01}", "line 2: owner is missing"),
        ("global:\n- {source: x, distance: 1, owner: a, date: 2026-11-01}", "line 2: reason is missing"),
        ("global:\n- {source: x, distance: 1, owner: a, reason: b}", "line 2: date is missing"),
        ("global:\n- {source: x, distance: 1, owner: , reason: b, date: 2026-11-01}", "owner is empty"),
        ("global:\n- {source: x, distance: 1, owner: a, reason: b, date: soon}", "date=soon is none; write YYYY"),
        (
            f"user:\n- {{source: x, distance: 1, {WHO}}}\n- {{source: x, distance: 2, {WHO}}}",
            "line 3: .*first on line 2",
        ),
        ("global: [", r"line 1: not YAML"),
        ("a: b: c", "line 1: not YAML"),
        (b"global: \xff", "not YAML"),
        (b"global: \x00", "not YAML"),
        ("[" * 5000, "not YAML"),
    ],
)
def test_a_bad_file_is_told_with_its_line(tmp_path, text, says):
    with pytest.raises(UserError, match=says) as told:
        read(tmp_path, text)
    assert "b.yaml" in str(told.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"--bounds=.*no.yaml: no such file"):
        bounds.read(str(tmp_path / "no.yaml"))
