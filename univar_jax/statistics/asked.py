"""Which sources are compared: two named by flags, pairs in a file, or each persona with its model without one."""

import numpy as np

from univar_jax import cli
from univar_jax.cli import UserError
from univar_jax.statistics import matrix

Pair = tuple[str, str]
Named = tuple[Pair, str]  # and where it is named


def named(before: str, after: str, pairs: str, bounds: str) -> list[Named]:
    """The pairs that compare's flags name; none where bounds alone are given.

    Raises:
      UserError: too few flags or too many, a file that is no CSV of pairs, a pair of one source or that stands twice.
    """
    if pairs and (before or after):
        raise UserError("--pairs and --before/--after both name pairs; give one of the two")
    if bool(before) != bool(after):
        raise UserError(f"--{'after' if before else 'before'} is missing; --before and --after are two sources")
    if before:
        found = [((before, after), "--before, --after")]
    elif pairs:
        found = _pairs_file(pairs)
    elif bounds:
        return []
    else:
        raise UserError("nothing to compare; give --before and --after, or --pairs, or --bounds for all personas")
    first: dict[Pair, str] = {}
    for pair, where in found:
        if pair[0] == pair[1]:
            raise UserError(f"{where}: before and after are both {pair[0]}; name two sources")
        if pair in first:
            raise UserError(f"{where}: {pair[0]} to {pair[1]} stands in {first[pair]} too; name each pair once")
        first[pair] = where.removeprefix(f"{pairs} ")
    return found


def _pairs_file(file: str) -> list[Named]:
    where = f"--pairs={file}"
    header, rows, _ = matrix.table(file, "pairs")
    missing = [name for name in ("before", "after") if name not in header]
    if missing:
        raise UserError(f"{where}: no column {', '.join(missing)} (there: {', '.join(header) or 'none'}); name both so")
    found = []
    for number, row in enumerate(rows, 1):
        pair = tuple(row[header.index(name)].strip() for name in ("before", "after"))
        if not all(pair):
            raise UserError(f"{file} row {number}: {'after' if pair[0] else 'before'} is empty; name a source")
        found.append((pair, f"{file} row {number}"))
    if not found:
        raise UserError(f"{where}: 0 rows; give a pair of sources in each")
    return found


def homes(columns: dict[str, np.ndarray]) -> dict[str, str]:
    """Each source → its model and language, the source that it is without a persona."""
    named = zip(*(columns[name] for name in ("source", "model", "lang")), strict=True)
    found = {}
    for source, model, lang in named:
        base = "$".join(word for word in (model.strip(), lang.strip()) if word)
        found[source] = base if source.startswith(f"{base}$") else source
    return found


def pairs(asked: list[Named], there: list[str], home: dict[str, str]) -> list[Pair]:
    """The pairs that are compared; where none is named, all personas with what they are without.

    Args:
      asked: what `named` gave.
      there: the sources that have answers about values.
      home: what `homes` gave.

    Raises:
      UserError: a source that is not there, with near spellings; no persona; a persona whose model is not there.
    """
    for pair, where in asked:
        for name in pair:
            if name not in there:
                cure = cli.near(name, there)
                raise UserError(
                    f"{where}: {name} is none of the {len(there)} sources with answers about values; {cure}"
                )
    if asked:
        return [pair for pair, _ in asked]
    found = [(home[name], name) for name in there if home[name] != name]
    if not found:
        raise UserError("--bounds: no source has a persona (model$lang$persona); name what to compare with --pairs")
    for base, name in found:
        if base not in there:
            raise UserError(
                f"--bounds: {name} has no {base} to be compared with; embed its answers too, or give --pairs"
            )
    return found
