"""How far a persona may go: bounds in three tiers, read from YAML, and whether a source is shown to stay within them.

    global:                        # for all; `organisation` and `user` stand beside it in the same form
      - source: "*$eng$*"          # a source's name or a glob; or `persona:`, which is matched to its last part
        distance: 0.10             # the most that the shift over all questions may be, 0 to 2
        values: {honesty: 0.05}    # the same on single values, by name or glob; one of the two is enough
        owner: safety board        # who set it, why, and when: all three are asked for
        reason: a tone of voice is no change of values
        date: 2026-11-01

Tiers are nested: all bounds that match hold, so the strictest one decides, whichever tier it is in, and a narrower tier
can only tighten (after arXiv 2303.05453). At equal limits the wider tier is named. A name that nothing is called is an
error, for a bound that checks nothing would seem to hold; a glob may match nothing, which is a note.

The check is a conservative one: within a bound is what is shown to be, so the whole 95 % interval of the shift has to
lie within, noise and all. Verdicts: "within", "exceeded" (the shift itself), "not shown within" (the interval's upper
end), "not enough" (too few questions to say); only the first one passes. A shift that is just above its limit passes
in some 3 of 100 cases, and of many bounds each has that chance.
"""

import dataclasses
import datetime
import fnmatch
import math
from collections.abc import Iterable, Sequence

import yaml
from etils import epath

from univar_jax import cli, files
from univar_jax.cli import UserError
from univar_jax.statistics import nearest

CURE = "give a YAML file of bounds by tier"
TIERS = ("global", "organisation", "user")
_WHO, _ABOUT, _LIMITS = ("source", "persona"), ("owner", "reason", "date"), ("distance", "values")
_LARGEST = 2.0  # of a cosine distance


@dataclasses.dataclass(frozen=True)
class Bound:
    """One entry of the file.

    Attributes:
      tier: one of TIERS.
      kind: "source" or "persona", what the pattern is matched to.
      pattern: a name or a glob.
      limits: value (name or glob) → limit; "" is the shift over all questions.
      owner, reason: as in the file; date: YYYY-MM-DD.
      line: where the entry starts.
    """

    tier: str
    kind: str
    pattern: str
    limits: dict[str, float]
    owner: str
    reason: str
    date: str
    line: int

    def about(self) -> dict[str, str]:
        """What a table prints of it."""
        return {key: getattr(self, key) for key in ("tier", *_ABOUT)} | {"pattern": self.pattern}


def read(file: str) -> list[Bound]:
    """The bounds of a file, in the order of the tiers.

    Raises:
      UserError: with file and line: not YAML, an unknown key (with near spellings), a key or bound that stands twice,
        a limit that is no number from 0 to 2, an owner, reason, date or limit that is missing.
    """
    data = files.given(file, "bounds", CURE)
    try:
        root = yaml.compose(data, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file} line {mark.line + 1}" if mark else file
        why = getattr(error, "problem", None) or getattr(error, "reason", None) or "brackets too deep"
        raise UserError(f"{where}: not YAML ({why}); mend that line") from error
    if root is None:
        raise UserError(f"{file}: no bound in it; give at least one under {', '.join(TIERS)}")
    tiers = _mapping(file, root, TIERS)
    bounds = [_bound(file, tier, node) for tier in TIERS if tier in tiers for node in _list(file, tier, tiers[tier])]
    if not bounds:
        raise UserError(f"{file}: no bound in it; give at least one under {', '.join(TIERS)}")
    first: dict[tuple, Bound] = {}
    for bound in bounds:
        key = bound.tier, bound.kind, bound.pattern
        if key in first:
            twice = f"{bound.kind} {bound.pattern} stands twice under {bound.tier} (first on line {first[key].line})"
            raise UserError(f"{file} line {bound.line}: {twice}; make them one")
        first[key] = bound
    return bounds


def _where(file: str, node: yaml.Node) -> str:
    return f"{file} line {node.start_mark.line + 1}"


def _mapping(file: str, node: yaml.Node, allowed: Sequence[str] = ()) -> dict[str, yaml.Node]:
    """A mapping's nodes by key; YAML itself would take the last of two equal keys and say nothing."""
    if not isinstance(node, yaml.MappingNode):
        keys = ", ".join(allowed) or "values"
        raise UserError(f"{_where(file, node)}: here keys are wanted ({keys}), each with a colon behind")
    out: dict[str, yaml.Node] = {}
    for key, value in node.value:
        word = key.value if isinstance(key, yaml.ScalarNode) else "a list"
        if allowed and word not in allowed:
            raise UserError(f"{_where(file, key)}: {word!r} is no key here; {cli.near(word, allowed)}")
        if word in out:
            raise UserError(f"{_where(file, key)}: {word} stands twice; keep one")
        out[word] = value
    return out


def _list(file: str, tier: str, node: yaml.Node) -> list[yaml.Node]:
    if not isinstance(node, yaml.SequenceNode):
        raise UserError(f"{_where(file, node)}: {tier} is no list; start each bound under it with a dash")
    return node.value


def _bound(file: str, tier: str, node: yaml.Node) -> Bound:
    found, where = _mapping(file, node, (*_WHO, *_LIMITS, *_ABOUT)), _where(file, node)
    if len([key for key in _WHO if key in found]) != 1:
        raise UserError(f"{where}: a bound of {tier} needs either source or persona; name one, or a glob of them")
    if not any(key in found for key in _LIMITS):
        raise UserError(f"{where}: a bound of {tier} has no limit; give distance, or values, or both")
    (kind,) = (key for key in _WHO if key in found)
    words = {key: _word(file, found.get(key), key, where) for key in (kind, "owner", "reason", "date")}
    try:
        date = datetime.date.fromisoformat(words["date"]).isoformat()
    except ValueError:
        raise UserError(f"{_where(file, found['date'])}: date={words['date']} is none; write YYYY-MM-DD") from None
    limits = {"": _limit(file, "distance", found["distance"])} if "distance" in found else {}
    if "values" in found:
        for value, limit in _mapping(file, found["values"]).items():
            if not value.strip():
                raise UserError(f"{_where(file, limit)}: a value without a name; name it, or use distance")
            limits[value] = _limit(file, value, limit)
    if not limits:
        raise UserError(f"{where}: values is empty; give a value and its limit")
    return Bound(tier, kind, words[kind], limits, words["owner"], words["reason"], date, node.start_mark.line + 1)


def _word(file: str, node: yaml.Node | None, key: str, where: str) -> str:
    """A text in one line."""
    if node is None:
        raise UserError(f"{where}: {key} is missing; a bound says who set it (owner), why (reason) and when (date)")
    text = " ".join(node.value.split()) if isinstance(node, yaml.ScalarNode) else ""
    if not text or node.tag.endswith(":null"):
        raise UserError(f"{_where(file, node)}: {key} is empty; write it as a text")
    return text


def _limit(file: str, key: str, node: yaml.Node) -> float:
    try:
        # Only what stands without quotes is a number; yaml takes 1e-2 for a text.
        limit = float(node.value) if isinstance(node, yaml.ScalarNode) and node.style is None else math.nan
    except ValueError:
        limit = math.nan
    if not 0 <= limit <= _LARGEST:
        said = node.value if isinstance(node, yaml.ScalarNode) else "a list"
        raise UserError(f"{_where(file, node)}: the limit of {key} is {said}; give a number from 0 to 2")
    return limit


def _matches(pattern: str, name: str) -> bool:
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


def _is_glob(pattern: str) -> bool:
    return any(letter in pattern for letter in "*?[")


def check(
    file: str,
    bounds: Sequence[Bound],
    sources: dict[str, str],
    there: dict[str, str],
    values: Iterable[str],
    notes: list[str],
) -> None:
    """Raises where a bound names a source, persona or value that is not there; a glob without any is noted.

    So is a name of the embeddings' that is not compared this time: one file of bounds may serve many releases.

    Args:
      file: of the bounds, to be named.
      bounds: its entries.
      sources: those that are compared → their persona, "" for none.
      there: the same of all sources of the embeddings.
      values: names in the column `value`.
      notes: for what the reader should know; appended to.
    """
    values = list(values)
    for bound in bounds:
        compared, known = (
            list(of) if bound.kind == "source" else sorted(set(of.values()) - {""}) for of in (sources, there)
        )
        wanted = [(bound.kind, bound.pattern, compared, known)]
        wanted += [("value", value, values, values) for value in bound.limits if value]
        for kind, pattern, names, known in wanted:
            if any(_matches(pattern, name) for name in names):
                continue
            where = f"{epath.Path(file).name} line {bound.line}: {kind} {pattern}"
            if not _is_glob(pattern) and pattern not in known:
                raise UserError(f"{where} is not in --embeddings, so nothing is checked; {cli.near(pattern, known)}")
            notes.append(f"{where} matches none that is compared.")
    free = [s for s, persona in sources.items() if not any(_applies(b, s, persona) for b in bounds)]
    if bounds and free:
        notes.append(f"No bound is set for {', '.join(free)}.")


def _applies(bound: Bound, source: str, persona: str) -> bool:
    if bound.kind == "source":
        return _matches(bound.pattern, source)
    return bool(persona) and _matches(bound.pattern, persona)


def judge(bounds: Sequence[Bound], pair: dict, persona: str) -> list[dict]:
    """The rows of compare.json's `bounds` for one pair, that over all questions first.

    Args:
      bounds: of the file, the widest tier first.
      pair: an entry of compare.json's `pairs`; its `after` is held within the bounds.
      persona: of after, "" for none.
    """
    found: dict[str, list[tuple[float, Bound]]] = {}
    for bound in (b for b in bounds if _applies(b, pair["after"], persona)):
        for pattern, limit in bound.limits.items():
            names = [pattern] if not _is_glob(pattern) else []  # a value that was named is told of, rows or none
            names += [v for v in pair["by_value"] if pattern and _matches(pattern, v)]
            for name in dict.fromkeys(names):
                found.setdefault(name, []).append((limit, bound))
    rows = []
    for value in sorted(found):
        # The sort is stable: of equal limits the wider tier's stays first.
        (limit, strictest), *looser = sorted(found[value], key=lambda entry: entry[0])
        figure = pair["by_value"].get(value) if value else pair
        row = {"source": pair["after"], "before": pair["before"], "value": value or None, "limit": limit}
        row |= _verdict(figure, limit) | strictest.about()
        rows.append(row | {"looser": [{"limit": other, **bound.about()} for other, bound in looser]})
    return rows


def _verdict(figure: dict | None, limit: float) -> dict:
    """Whether the shift is shown to be within a limit; None stands for no rows at all."""
    out = {"distance": None, "ci": None, "groups": figure["groups"] if figure else 0, "needed_groups": None}
    if not figure or figure["not_enough"]:
        return out | {"verdict": "not enough", "pass": False, "needed_groups": nearest.MIN_GROUPS}
    distance, (lo, hi) = figure["shift"], figure["shift_ci"]
    out |= {"distance": distance, "ci": [lo, hi]}
    if hi <= limit and distance <= limit:
        return out | {"verdict": "within", "pass": True}
    if distance > limit:
        return out | {"verdict": "exceeded", "pass": False}
    if distance < limit:  # an interval's width falls as 1/√groups
        out["needed_groups"] = math.ceil(out["groups"] * ((hi - distance) / (limit - distance)) ** 2)
    return out | {"verdict": "not shown within", "pass": False}
