"""The pictures of graph, values and transfer, as PNG; equal input, equal bytes."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from univar_jax.report.figures import PALETTE, label, png

# From this share of the resamples on, an edge is drawn in full colour, and an arrow has its head.
OFTEN = 0.8
_PALE, _INK = "#9aa3ad", "#1c2127"
# More names than this round a circle cannot stand level.
_MAX_LEVEL = 18
# More names than this at a heat map's rows cannot be read.
_MAX_NAMES = 60

Array = np.ndarray


def value_graph(metrics: dict) -> bytes:
    """The reduced graph on a circle: width by how often an edge comes back, a head only on directions that do.

    Args:
      metrics: graph.json's.
    """
    resampled = bool(metrics["bootstrap"]["done"])
    edges = [edge for edge in metrics["edges"] if edge["reduced"]]
    order = _circle(metrics["values"], edges)
    angle = {name: np.pi / 2 - 2 * np.pi * i / len(order) for i, name in enumerate(order)}
    at = {name: np.array([np.cos(a), np.sin(a)]) for name, a in angle.items()}
    tall = float(np.clip(7.4 + 0.22 * (len(order) - 17), 7.4, 18))
    figure, ax = plt.subplots(figsize=(tall * 1.25, tall), layout="constrained")
    halo = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    for edge in sorted(edges, key=lambda edge: edge["adjacent"] or 0):
        _edge(ax, at[edge["from"]], at[edge["to"]], edge, halo)
    for name, place in at.items():
        ax.plot(*place, "o", color=_INK, ms=7, zorder=4)
        _name(ax, place, name, len(order) > _MAX_LEVEL, halo)
    reach = 1.7 if len(order) > _MAX_LEVEL else 1.15
    ax.set(xlim=(-1.75, 1.75), ylim=(-reach, reach), aspect="equal")
    ax.axis("off")
    figure.legend(handles=_graph_keys(resampled), loc="outside lower center", ncols=1, frameon=False, fontsize=9.5)
    return png(figure)


def _name(ax: Axes, place: Array, name: str, along: bool, halo: list) -> None:
    """A value's name outside the circle: level, or along the radius where level ones would lie on one another."""
    side = "left" if place[0] > 0.05 else "right" if place[0] < -0.05 else "center"
    level = "center" if abs(place[1]) < 0.95 else "bottom" if place[1] > 0 else "top"
    look = {"ha": side, "va": level}
    if along:
        turn = np.degrees(np.arctan2(*place[::-1]))
        left = place[0] < -1e-9
        look = {"ha": "right" if left else "left", "va": "center", "rotation_mode": "anchor"}
        look["rotation"] = turn + 180 if left else turn
    ax.text(*(place * 1.06), name, fontsize=11, zorder=5, path_effects=halo, **look)


def _edge(ax: Axes, start: Array, end: Array, edge: dict, halo: list) -> None:
    often = edge["adjacent"]
    if often is None:
        look = {"lw": 1.2, "color": _PALE, "ls": ":"}
    else:
        look = {"lw": 0.5 + 4.5 * often, "color": PALETTE[0] if often >= OFTEN else _PALE, "alpha": 0.85}
    along = (end - start) / np.linalg.norm(end - start)
    ax.plot(*zip(start, end, strict=True), zorder=1, solid_capstyle="round", **look)
    if often is None:
        return
    if edge["directed"] and edge["forward"] >= OFTEN:
        tip = {"arrowstyle": "-|>", "mutation_scale": 22, "lw": 0, "color": look["color"]}
        ax.annotate("", end - 0.02 * along, end - 0.12 * along, arrowprops=tip, zorder=3)
    told = f"{100 * often:.0f}" + (f" · {100 * edge['forward']:.0f}" if edge["directed"] else "")
    # Off the middle, where edges across the circle meet.
    ax.text(*(start + 0.3 * (end - start)), told, fontsize=8, ha="center", va="center", zorder=3, path_effects=halo)


def _graph_keys(resampled: bool) -> list[Line2D]:
    if not resampled:
        dotted = "dotted: not resampled; nothing is known of how often it comes back, so no direction is drawn"
        return [Line2D([], [], color=_PALE, ls=":", lw=1.5, label=dotted)]
    sure, pale = f"joined in {OFTEN:.0%} of the resamples or more", f"joined in less than {OFTEN:.0%}"
    told = "numbers: % joined · % with the arrow from that end, by which it has a head or not"
    keys = [Line2D([], [], color=PALETTE[0], lw=4.5, label=sure), Line2D([], [], color=_PALE, lw=1.8, label=pale)]
    return [*keys, Line2D([], [], ls="", label=told)]


def _circle(values: Sequence[str], edges: Sequence[dict]) -> list[str]:
    """An order in which joined values stand near one another: each time the one with most edges to the last placed."""
    joined = {name: set() for name in values}
    for edge in edges:
        joined[edge["from"]].add(edge["to"])
        joined[edge["to"]].add(edge["from"])
    order = [max(sorted(values), key=lambda name: len(joined[name]))] if values else []
    while len(order) < len(values):
        left = sorted(set(values) - set(order))
        order.append(max(left, key=lambda name: sum(0.7**i for i, o in enumerate(order[::-1]) if o in joined[name])))
    return order


def score_matrix(cells: Sequence[dict], values: Sequence[str]) -> bytes:
    """Heat map of scores.csv: a row a source and condition, a column a value; grey is an empty cell.

    Args:
      cells: as `stances.cells` gives them.
      values: the columns.
    """
    keys = sorted({(c["source"], c["persona"], c["condition"]) for c in cells})
    score_rv = np.full((max(1, len(keys)), max(1, len(values))), np.nan)
    for c in cells:
        score = np.nan if c["score"] is None else c["score"]
        score_rv[keys.index((c["source"], c["persona"], c["condition"])), list(values).index(c["value"])] = score
    tall, wide = np.clip(1.6 + 0.3 * len(keys), 3, 18), np.clip(4 + 0.45 * len(values), 5, 18)
    figure, ax = plt.subplots(figsize=(wide, tall), layout="constrained")
    ax.set_facecolor("#d0d4d9")
    picture = ax.imshow(score_rv, cmap="PuOr_r", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    names = [" · ".join(filter(None, (s, "" if s.endswith(f"${p}") else p, c))) for s, p, c in keys]
    if len(keys) <= _MAX_NAMES:
        ax.set_yticks(range(len(keys)), names, fontsize=9)
    else:  # they could not be read
        ax.set(yticks=[], ylabel=f"{len(keys)} sources × conditions, by name")
    ax.set_xticks(range(len(values)), [v for v in values], fontsize=9, rotation=35, ha="right")
    if score_rv.size <= 200 and cells:
        for (i, j), score in np.ndenumerate(score_rv):
            ink = "white" if abs(score) > 0.7 else "black"
            ax.text(
                j, i, "–" if np.isnan(score) else f"{score:+.2f}", ha="center", va="center", color=ink, fontsize=8.5
            )
    figure.colorbar(picture, ax=ax, location="top", shrink=0.6, aspect=30).set_label("against … for the value")
    return png(figure)


def reliability(bins: Sequence[dict]) -> bytes:
    """How often names were right among those given with a probability, with intervals by question group.

    Args:
      bins: values.json's readout.reliability.
    """
    figure, (ax, below) = plt.subplots(2, 1, figsize=(5.6, 6), height_ratios=(4, 1), sharex=True, layout="constrained")
    ax.plot([0, 1], [0, 1], color="#333333", ls="--", lw=1.2, label="as told")
    for one in bins:
        lo, hi = one["came_true_ci"] or (one["came_true"],) * 2
        ax.plot([one["p"]] * 2, [lo, hi], color=PALETTE[0], lw=3, alpha=0.45)
        ax.plot(one["p"], one["came_true"], "o" if one["came_true_ci"] else "D", color=PALETTE[0], ms=7)
        below.bar(one["p"], one["n"], width=0.06, color=_PALE)
    ax.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="names that were right")
    below.set(xlabel="probability told of the name", ylabel="answers")
    for part in (ax, below):
        part.spines[["top", "right"]].set_visible(False)
        part.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    ax.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    few = Line2D([], [], ls="", marker="D", color=PALETTE[0], label="too few question groups for an interval")
    keys = [Line2D([], [], color="#333333", ls="--", label="as told")]
    keys += [few] if any(not one["came_true_ci"] for one in bins) else []
    ax.legend(handles=keys, frameon=False, loc="lower right", fontsize=9)
    return png(figure)


def moved(part: dict, roles: dict) -> bytes:
    """Where a student went: mean vectors on a plane, and each source's distances to the ceiling with what chance makes.

    Args:
      part: of transfer.json, with distances.
      roles: its `sources`.
    """
    looks = {roles["before"]: (PALETTE[6], "o"), roles["after"]: (PALETTE[0], "o"), roles["ceiling"]: (PALETTE[2], "s")}
    looks |= {name: (PALETTE[1], "^") for name in roles["teachers"]}
    figure, axes = plt.subplot_mosaic(
        [["plane", "energy"], ["plane", "centroid"]], figsize=(11, 5), layout="constrained"
    )
    plane, start, end = axes.pop("plane"), part["places"][roles["before"]], part["places"][roles["after"]]
    plane.axhline(0, color="#dddddd", lw=1, zorder=0)
    plane.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": PALETTE[0], "lw": 2, "shrinkB": 6})
    for name, (tint, marker) in looks.items():
        plane.plot(*part["places"][name], marker, color=tint, ms=10, mec="white", zorder=4)
    low_2, high_2 = (of(list(part["places"].values()), axis=0) for of in (np.min, np.max))
    half = 0.7 * max(high_2 - low_2)  # one scale on both axes, with room for names, and set before names are placed
    x, y = (low_2 + high_2) / 2
    plane.set(xlim=(x - half, x + half), ylim=(y - half, y + half))
    label(plane, [(*part["places"][name], name) for name in looks])
    plane.set(xlabel="from before (0) to the ceiling (1), mean vectors", ylabel="what the others differ in most")
    plane.spines[["top", "right"]].set_visible(False)
    for word, ax in axes.items():
        found = part[word]
        lines = [(roles[end], found[end], found[f"{end}_ci"]) for end in ("before", "after")]
        lines += [(name, of[word]["ceiling"], of[word]["ceiling_ci"]) for name, of in part["teachers"].items()]
        ax.axvspan(0, found["floor"], color="#e5e5e5", label="as by chance, were they one")
        for y, (name, far, ends) in enumerate(lines):
            tint, marker = looks[name]
            ax.plot(ends, [y, y], color=tint, lw=3, alpha=0.5, solid_capstyle="round")
            ax.plot(far, y, marker, color=tint, ms=9)
        ax.set_yticks(range(len(lines)), [name for name, _, _ in lines])
        ax.set(ylim=(len(lines) - 0.5, -0.5), xlabel=f"{word} distance to {roles['ceiling']}")
        ax.axvline(0, color="#333333", lw=1)
        ax.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right", frameon=False)
    return png(figure)
