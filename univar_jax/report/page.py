"""The report: vectors and figures in, its files as bytes out; the page is one file that needs no network.

Without its script the page shows the pictures and tables; the script puts what can be asked in their place. Equal
input gives equal bytes.
"""

import base64
import itertools
import json
import pathlib
from collections.abc import Collection, Sequence

import markupsafe
import numpy as np

from univar_jax.report import figures, maps, sheet
from univar_jax.statistics import resamples

# Of distances.csv, after the two sources' names.
PAIR_COLUMNS = ("rows", "shared", "centroid", "centroid_shared", "centroid_floor", "centroid_p", "centroid_q")
PAIR_COLUMNS += ("energy", "floor", "p", "q")
# Of pairs.csv: a line for all questions of a pair, value empty, and one for each value.
MOVE_COLUMNS = (
    "before",
    "after",
    "value",
    "shift",
    "shift_lo",
    "shift_hi",
    "noise_lo",
    "noise_hi",
    "shift_p",
    "shift_q",
)
MOVE_COLUMNS += ("energy", "p", "q", "shared", "unit", "groups")
# Points whose text is in the page, and how much of it: 5,000 of 200 letters are a megabyte.
MAX_TEXTS, TEXT_LETTERS = 5_000, 200
_COMMON = ("report.js", "report_map.js", "report_reader.js")
_SCRIPTS = {"report.html.j2": (*_COMMON, "report_heat.js"), "place.html.j2": _COMMON, "compare.html.j2": _COMMON}
_HERE = pathlib.Path(__file__).parent

Array = np.ndarray


def report(drawn: maps.Maps, columns: dict[str, Array], metrics: dict) -> dict[str, bytes]:
    """The files of a report by name; metrics.json is the last one, so that it is never there without the others.

    Args:
      drawn: the maps.
      columns: source, model, lang and text of each row that could be drawn, [n] each.
      metrics: what metrics.json will hold.
    """
    apart = metrics["distances"]
    names, d_ss = apart["names"], np.array(apart["centroid"], float)
    home, of = dict(zip(columns["source"], columns["lang"], strict=True)), len(columns["source"])
    columns = drawn_rows(columns, drawn)
    files = pictures(drawn, columns)
    files |= {"distances.png": figures.distances(names, d_ss), "scores.png": figures.scores(metrics["encoders"])}
    rows = pairs(apart)
    scored = [row for row in rows if {home[row["a"]], home[row["b"]]} <= set(metrics["lang"])]
    more = {
        "pairs": scored,
        "nodes": nodes(apart),
        "sources": len(names),
        "encoder": metrics["encoder"],
        "questions": metrics["questions"],
    }
    html = render("report.html.j2", metrics, files, points(drawn, columns, metrics["seed"]), of, more)
    return files | {
        "distances.csv": sheet.csv_of(["a", "b", *PAIR_COLUMNS], rows),
        "report.html": html,
        "metrics.json": sheet.json_of(metrics),
    }


def compared(
    drawn: maps.Maps, columns: dict[str, Array], moves: dict[str, list[dict]], found: dict
) -> dict[str, bytes]:
    """The files of compare's report by name, compare.json the last one.

    Args:
      drawn: the maps.
      columns: source, model, lang and text of each row that could be drawn, [n] each.
      moves: for pca, and for umap where there is one, the arrows, as `figures.moves` takes them.
      found: what compare.json will hold.
    """
    of, columns = len(columns["source"]), drawn_rows(columns, drawn)
    files = {"pca.png": figures.moves(drawn.pca_n2, columns, _pca_axes(drawn), moves["pca"])}
    files["map.png"] = files["pca.png"]
    if drawn.umap_n2 is not None:
        files["map.png"] = figures.moves(drawn.umap_n2, columns, ("UMAP 1", "UMAP 2"), moves["umap"])
    more = {
        "sources": len(set(columns["source"])),
        "encoder": found["encoder"],
        "questions": found["questions"],
        "moves": True,
    }
    html = render("compare.html.j2", found, files, points(drawn, columns, found["seed"], moves=moves), of, more)
    lines = [
        _move_line(pair, value, row)
        for pair in found["pairs"]
        for value, row in [("", pair), *pair["by_value"].items()]
    ]
    return files | {
        "pairs.csv": sheet.csv_of(MOVE_COLUMNS, lines),
        "report.html": html,
        "compare.json": sheet.json_of(found),
    }


def _move_line(pair: dict, value: str, row: dict) -> dict:
    ends = dict(zip(("shift_lo", "shift_hi"), row["shift_ci"] or (None, None), strict=True))
    ends |= dict(zip(("noise_lo", "noise_hi"), row["noise_band"] or (None, None), strict=True))
    return row | ends | {"before": pair["before"], "after": pair["after"], "value": value}


def drawn_rows(columns: dict[str, Array], drawn: maps.Maps) -> dict[str, Array]:
    """Source, model, lang and text of the drawn rows."""
    return {name: columns[name][drawn.rows] for name in ("source", "model", "lang", "text")}


def pictures(drawn: maps.Maps, columns: dict[str, Array], mine: Collection[str] = ()) -> dict[str, bytes]:
    """pca.png and map.png, which is the PCA too where there is no UMAP; `mine` are sources that stand out.

    Args:
      drawn: the maps.
      columns: what `drawn_rows` gave.
      mine: names.
    """
    files = {"pca.png": figures.value_map(drawn.pca_n2, columns, _pca_axes(drawn), mine)}
    if drawn.umap_n2 is None:
        return files | {"map.png": files["pca.png"]}
    return files | {"map.png": figures.value_map(drawn.umap_n2, columns, ("UMAP 1", "UMAP 2"), mine)}


def _pca_axes(drawn: maps.Maps) -> tuple[str, ...]:
    return tuple(f"main axis {i + 1} ({share:.0%} of the variance)" for i, share in enumerate(drawn.shares))


def render(template: str, metrics: dict, files: dict[str, bytes], drawn: dict, of: int, more: dict) -> bytes:
    """A page.

    Args:
      template: its name.
      metrics: what the report's JSON file will hold.
      files: the pictures.
      drawn: what `points` gave.
      of: rows that could have been drawn.
      more: what this template wants besides; `sources` and `encoder` for its map.
    """
    return sheet.page(
        template,
        metrics,
        files,
        "\n".join((_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS[template]),
        drawn={key: drawn[key] for key in ("rows", "neighbours", "texts_of")} | {"of": of, "letters": TEXT_LETTERS},
        told=len(drawn["texts"]),
        points_json=as_json(drawn),
        metrics_json=as_json(metrics),
        **more,
    )


def as_json(value: object) -> markupsafe.Markup:
    """JSON that may stand inside a <script>: no character that HTML could read as a tag's beginning or end."""
    text = json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return markupsafe.Markup(text)


def points(
    drawn: maps.Maps,
    columns: dict[str, Array],
    seed: int,
    mine: Collection[str] = (),
    moves: dict[str, list[dict]] | None = None,
) -> dict:
    """What the page's map is drawn from; numbers as base64 of little-endian uint16, for the browser's typed arrays.

    Args:
      drawn: the maps.
      columns: source, model, lang and text of the drawn rows, [n] each.
      seed: of the lot that says whose text is there.
      mine: sources that stand out; their texts are there before others'.
      moves: arrows on each map, as `compared` takes them.
    """
    shade_n, colour, marker = figures.looks(columns, mine)
    names, first, code_n = np.unique(columns["source"], return_index=True, return_inverse=True)
    sources = [
        {
            "name": str(name),
            "model": columns["model"][row],
            "lang": columns["lang"][row],
            "colour": colour[shade_n[row]],
            "shape": marker[columns["model"][row]],
        }
        | ({"mine": 1} if name in mine else {})
        for name, row in zip(names, first, strict=True)
    ]
    own = np.flatnonzero(np.isin(columns["source"], list(mine)))
    some = maps.sample(len(code_n), seed, MAX_TEXTS, resamples.TEXTS, own)
    drawn_by, moves = {"umap": drawn.umap_n2, "pca": drawn.pca_n2}, moves or {}
    return {
        "rows": len(code_n),
        "neighbours": drawn.neighbours,
        "sources": sources,
        "source": _packed(code_n),
        "maps": {
            name: _placed(xy_n2, shade_n, colour, moves.get(name, []))
            for name, xy_n2 in drawn_by.items()
            if xy_n2 is not None
        },
        "texts": [_cut(columns["text"][row]) for row in some],
        "texts_of": some.tolist() if len(some) < len(code_n) else None,
        "palette": figures.COLOURS,
        "markers": figures.MARKERS,
    }


def _placed(xy_n2: Array, shade_n: Array, colour: dict[str, int], moves: Sequence[dict]) -> dict:
    """Places in a square of 0 to 65535, both axes by one scale; in it hulls, [colour, x, y, x, y, …], and arrows."""
    low, high = xy_n2.min(0), xy_n2.max(0)
    span = float((high - low).max()) or 1.0
    scaled = lambda xy_n2: np.rint(((xy_n2 - (low + high) / 2) / span + 0.5) * 65535)  # noqa: E731
    arrows = []
    for move in moves:
        wide, high_, angle = move["ellipse"]
        sizes = [round(size / span * 65535, 1) for size in (wide, high_)]
        arrows.append(
            {key: move[key] for key in ("before", "after")}
            | {"ends": [int(at) for end in ("start", "end") for at in scaled(move[end])]}
            | {"ellipse": [*sizes, round(angle, 2)]}
        )
    xy_n2 = scaled(xy_n2)
    hulls = []
    for name, at in colour.items():
        if (corners_c2 := figures.hull(xy_n2[shade_n == name])) is not None:
            hulls.append([at, *corners_c2.ravel().astype(int).tolist()])
    return {"xy": _packed(xy_n2), "hulls": hulls} | ({"arrows": arrows} if arrows else {})


def _packed(numbers: Array) -> str:
    return base64.b64encode(numbers.astype("<u2").tobytes()).decode()


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_LETTERS else text[:TEXT_LETTERS].rstrip() + " …"


def pairs(apart: dict) -> list[dict]:
    """metrics.json's distances, one pair of sources a row, the nearest centroids first."""
    keys = [key for key in PAIR_COLUMNS if key in apart]
    found = [
        {"a": a, "b": b} | {key: apart[key][i][j] for key in keys}
        for (i, a), (j, b) in itertools.combinations(enumerate(apart["names"]), 2)
    ]
    return sorted(found, key=lambda row: (row["centroid"], row["a"], row["b"]))


def nodes(apart: dict) -> list[dict]:
    """The tree's nodes, the nearest first: the sources under each, its height, and its support."""
    under = [[name] for name in apart["names"]]
    found = []
    for (left, right, height, _), support in zip(apart["linkage"], apart["support"], strict=True):
        under.append(under[int(left)] + under[int(right)])
        found.append({"sources": under[-1], "height": height, "support": support})
    return found
