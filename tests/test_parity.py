"""README's table of parity: every architecture stands in it and is below the limits; how it gets there."""

import re

import pytest

from tests import parity
from univar_jax.cli import UserError
from univar_jax.encoders.names import TABLES

FIGURE = r"(\d\.\de[+-]\d\d)"
ROW = re.compile(
    rf"\| (\S+) \| (random, \d+ seeds|\S+ \([0-9a-f]{{8}}\)) \| {FIGURE} \| {FIGURE} \| same bytes, {FIGURE} \|"
)
TABLE = f"{parity.HEAD}\n{parity.line('bert', 'random, 3 seeds', 1e-7, 2e-6, 3e-7, True)}"


def checked(table):
    """The rows of a table as (architecture, imported from), once every figure in it is found below its limit."""
    head, rows = table[: len(parity.HEAD)], table[len(parity.HEAD) :].split("\n")[1:]
    assert head == parity.HEAD and rows
    found = []
    for row in rows:
        architecture, origin, *figures = ROW.fullmatch(row).groups()
        for figure, limit in zip(figures, parity.LIMITS, strict=True):
            assert float(figure) <= limit, row
        found.append((architecture, origin))
    return found


def test_readmes_table_has_every_architecture_below_the_limits():
    text = parity.README.read_text(encoding="utf-8")
    if parity.START not in text:
        pytest.skip(f"README.md has no {parity.START}")
    before, after = parity.around(parity.README)
    table = text[len(before) + len(parity.START) : -len(parity.END + after)].strip("\n")
    if not table:
        pytest.skip("README.md has no table yet: python -m tests.parity --write")
    rows = checked(table)
    assert {architecture for architecture, origin in rows if origin.startswith("random")} == set(TABLES)
    assert any(origin.startswith("all-MiniLM-L6-v2 (") for _, origin in rows)


@pytest.mark.parametrize("wrong", [(3e-5, 0, 0), (0, 2e-4, 0), (0, 0, 2e-5), (float("nan"), 0, 0), (0, 0, 0, False)])
def test_a_figure_above_its_limit_is_found(wrong):
    assert checked(TABLE) == [("bert", "random, 3 seeds")]
    *figures, same = wrong if len(wrong) == 4 else (*wrong, True)
    with pytest.raises((AssertionError, AttributeError)):
        checked(f"{TABLE}\n{parity.line('bert', 'random, 3 seeds', *figures, same)}")


def test_a_measured_row_has_the_tables_form():
    pytest.importorskip("sentence_transformers", reason="needs torch: pip install 'univar_jax[torch]'")
    row = parity.random_row("bert", seeds=(0,))
    assert checked(f"{parity.HEAD}\n{row}") == [("bert", "random, 1 seeds")]


def test_the_table_is_put_between_the_markers(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n{parity.START}\nold\n{parity.END}\nafter ü\n", encoding="utf-8")
    for _ in range(2):  # again is the same
        parity.put(path, TABLE)
        assert path.read_text(encoding="utf-8") == f"before\n{parity.START}\n{TABLE}\n{parity.END}\nafter ü\n"


@pytest.mark.parametrize("text", ["", "{START}", "{END} {START}", "{START} {START} {END}", "{START} {END} {END}"])
def test_markers_that_are_not_there_once_each_are_told(text, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(given := text.format(START=parity.START, END=parity.END), encoding="utf-8")
    with pytest.raises(UserError, match="once each"):
        parity.put(path, TABLE)
    assert path.read_text(encoding="utf-8") == given
