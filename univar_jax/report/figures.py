"""The report's pictures: vectors and figures in, PNG as bytes out; equal input, equal bytes."""

import io
import warnings
from collections.abc import Collection, Sequence

import matplotlib

matplotlib.use("Agg")  # before pyplot: a report is made on machines without a screen

import numpy as np
from matplotlib import patheffects
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from scipy.cluster import hierarchy
from scipy.spatial import ConvexHull, QhullError

from univar_jax.statistics import dendrogram

matplotlib.rcParams["text.parse_math"] = False  # two $ in a label, as of model$lang$persona, are no formula

# Okabe and Ito's palette, told apart with any colour vision, less its yellow, too faint on white; then Tol's.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#882255", "#999933")
# Mine stand out by what no other source has: black, which the page turns white on dark paper, and the star.
COLOURS, MINE = (*PALETTE, "#000000"), "mine"
MARKERS, STAR = "os^DvPX*<>ph", "*"
# Names at all centroids cannot be read beyond so many sources, numbers at a heat map's columns beyond so many.
MAX_LABELS, _MAX_NUMBERS = 12, 30
# Sources that are drawn beside each of mine; all are in the table.
NEAREST = 8
_HULL_SHARE = 0.8

Array = np.ndarray


def looks(columns: dict[str, Array], mine: Collection[str] = ()) -> tuple[Array, dict[str, int], dict[str, int]]:
    """What a colour stands for in each row (its language, or its source where there is one language), and places.

    Args:
      columns: source, model and lang of each row, [n] each.
      mine: sources that stand out, by a colour of their own and the star, which no other model has then.

    Returns:
      The name behind each row's colour [n], that name's place in COLOURS, and each model's in MARKERS.
    """
    shade_n = columns["lang"] if len(set(columns["lang"])) > 1 else columns["source"]
    own_n = np.isin(columns["source"], list(mine))
    colour = {name: i % len(PALETTE) for i, name in enumerate(sorted(set(shade_n[~own_n])))}
    if own_n.any():
        shade_n, colour = np.where(own_n, MINE, shade_n), colour | {MINE: len(PALETTE)}
    starred = set(columns["model"][own_n])
    places = [i for i, letter in enumerate(MARKERS) if letter != STAR or not starred]
    marker = {name: places[i % len(places)] for i, name in enumerate(sorted(set(columns["model"]) - starred))}
    marker |= dict.fromkeys(sorted(starred), MARKERS.index(STAR))
    return shade_n, colour, marker


def value_map(xy_n2: Array, columns: dict[str, Array], axes: tuple[str, str], mine: Collection[str] = ()) -> bytes:
    """The map: points, centroids of sources with spokes to their language's, dashed hulls.

    Args:
      xy_n2: float [n, 2].
      columns: source, model and lang of each row, [n] each.
      axes: what stands at the two axes.
      mine: sources that stand out: drawn last and larger, too.
    """
    shade, colour_at, marker_at = looks(columns, mine)
    colour = {name: COLOURS[i] for name, i in colour_at.items()}
    marker = {name: MARKERS[i] for name, i in marker_at.items()}
    sources = sorted(set(columns["source"]), key=lambda name: (name in mine, name))
    keys, wide = _keys(colour, marker)
    figure, ax = plt.subplots(figsize=(7, 6 + 0.25 * -(-len(keys) // wide)), layout="constrained")
    size, large = float(np.clip(4000 / len(xy_n2), 3, 26)), float(np.clip(2000 / len(sources), 30, 110))
    labels = []
    for source in sources:
        rows = np.flatnonzero(columns["source"] == source)
        look = {"color": colour[shade[rows[0]]], "marker": marker[columns["model"][rows[0]]]}
        own = source in mine
        ax.scatter(*xy_n2[rows].T, s=size * (4 if own else 1), alpha=0.9 if own else 0.45, linewidths=0, **look)
        centre, home = xy_n2[rows].mean(0), xy_n2[columns["lang"] == columns["lang"][rows[0]]].mean(0)
        ax.plot(*zip(home, centre, strict=True), color=look["color"], lw=1.2, zorder=3)
        ax.scatter(*centre, s=420 if own else large, edgecolors="white", linewidths=1, zorder=5 if own else 4, **look)
        labels.append((*centre, source))
    for group, tint in colour.items():
        if (corners_c2 := hull(xy_n2[shade == group])) is not None:
            closed = np.concatenate([corners_c2, corners_c2[:1]])
            ax.plot(*closed.T, ls="--", lw=1.2, color=tint, alpha=0.9, zorder=2)
    ax.set(xlabel=axes[0], ylabel=axes[1], xticks=[], yticks=[])
    ax.spines[:].set_color("#bbbbbb")
    if len(labels) > MAX_LABELS:  # then the languages' centroids only, where there are several
        langs = sorted(set(columns["lang"]))
        labels = [label for label in labels if label[2] in mine]
        labels += [(*xy_n2[columns["lang"] == lang].mean(0), lang) for lang in langs if len(langs) > 1]
    label(ax, labels)
    if keys:
        figure.legend(handles=keys, loc="outside lower center", ncols=wide, frameon=False, fontsize=10)
    return png(figure)


def moves(xy_n2: Array, columns: dict[str, Array], axes: tuple[str, str], arrows: Sequence[dict]) -> bytes:
    """The part of a map where arrows go from before's centroid to after's, in what noise alone would make of them.

    Args:
      xy_n2: float [n, 2].
      columns: source of each row, [n].
      axes: what stands at the two axes.
      arrows: before and after (names), start and end (float [2]), ellipse (two diameters and an angle in degrees).
    """
    figure, ax = plt.subplots(figsize=(7, 6.5), layout="constrained")
    size = float(np.clip(4000 / len(xy_n2), 3, 26))
    befores, afters = (sorted({arrow[end] for arrow in arrows}) for end in ("before", "after"))
    tint = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(afters)}
    tint |= {name: "#333333" for name in befores if name not in tint}
    others_n = ~np.isin(columns["source"], list(tint))
    ax.scatter(*xy_n2[others_n].T, s=size, color="#cccccc", alpha=0.45, linewidths=0)
    for name, colour in tint.items():
        ax.scatter(*xy_n2[columns["source"] == name].T, s=size, color=colour, alpha=0.35, linewidths=0)
    for arrow in arrows:
        colour, (wide, high, angle) = tint[arrow["after"]], arrow["ellipse"]
        look = {"fill": False, "ls": "--", "lw": 1.4, "ec": colour, "zorder": 4}
        ax.add_patch(Ellipse(arrow["start"], wide, high, angle=angle, **look))
        head = {"arrowstyle": "-|>", "color": colour, "lw": 2.2, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 18}
        ax.annotate("", arrow["end"], arrow["start"], arrowprops=head, zorder=5)
        ax.scatter(*arrow["start"], s=50, color=tint[arrow["before"]], edgecolors="white", zorder=6)
    if arrows:
        _window(ax, arrows)
    labels = {(*arrow["end"], arrow["after"]) for arrow in arrows} if len(afters) <= MAX_LABELS else set()
    labels |= {(*arrow["start"], arrow["before"]) for arrow in arrows} if len(befores) <= MAX_LABELS else set()
    ax.set(xlabel=axes[0], ylabel=axes[1], xticks=[], yticks=[])
    ax.spines[:].set_color("#bbbbbb")
    label(ax, sorted(labels))
    return png(figure)


def _window(ax: Axes, arrows: Sequence[dict]) -> None:
    """Shows what is around the arrows: in a whole map most of them would be specks."""
    ends_m2 = np.array([arrow[end] for arrow in arrows for end in ("start", "end")])
    middle, widest = (ends_m2.min(0) + ends_m2.max(0)) / 2, max(max(arrow["ellipse"][:2]) for arrow in arrows)
    reach = max(0.6 * (float(np.ptp(ends_m2, axis=0).max()) + widest), 1e-6)
    ax.set(xlim=(middle[0] - reach, middle[0] + reach), ylim=(middle[1] - reach, middle[1] + reach))


def hull(xy_n2: Array) -> Array | None:
    """Corners [c, 2] of the hull of the points nearest the middle; that of all would be the hull of the outliers."""
    far_n = np.linalg.norm(xy_n2 - np.median(xy_n2, axis=0), axis=1)
    inner_n2 = xy_n2[far_n <= np.quantile(far_n, _HULL_SHARE)]
    try:
        return inner_n2[ConvexHull(inner_n2).vertices]
    except (QhullError, ValueError):  # fewer than three points, or all on a line: no area to enclose
        return None


def label(ax: Axes, labels: list[tuple[float, float, str]]) -> None:
    """Names beside their points, pushed upwards where they would lie on one another, with a thin leader."""
    to_axes = ax.transLimits.transform
    placed: list[tuple[float, float, float]] = []
    for x, y, name in sorted(labels, key=lambda label: label[1]):
        u, v = to_axes((x, y))
        wide = 0.0165 * len(name)  # of the axes, about, in this font
        u, v = max(min(u, 0.98 - wide), 0) + 0.015, v + 0.015
        for u_near, v_near, wide_near in sorted(placed, key=lambda at: at[1]):
            if u < u_near + wide_near and u_near < u + wide and abs(v - v_near) < 0.045:
                v = v_near + 0.045
        placed.append((u, v, wide))
        ax.annotate(
            name,
            (x, y),
            (u, v),
            textcoords="axes fraction",
            fontsize=10.5,
            zorder=6,
            path_effects=[patheffects.withStroke(linewidth=3, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": "#555555", "lw": 0.6},
        )


def _keys(colour: dict[str, str], marker: dict[str, str]) -> tuple[list[Line2D], int]:
    """The legend's entries, colours, then shapes where there is more than one model, and how many fit in a line."""
    dots = [Line2D([], [], ls="", marker="o", color=c, label=g) for g, c in colour.items()]
    if len(marker) > 1:
        dots += [Line2D([], [], ls="", marker=m, color="#333333", label=name) for name, m in marker.items()]
    if len(dots) > 60:  # it would be longer than the map
        return [], 1
    return dots, 2 if max(len(d.get_label()) for d in dots) > 22 else 4


def distances(names: Sequence[str], d_ss: Array) -> bytes:
    """Heat map of the distances between sources, ordered and joined by average linkage."""
    side = float(np.clip(3 + 0.4 * len(names), 4.6, 18))
    figure, (tree, ax) = plt.subplots(1, 2, figsize=(side + 3, side), width_ratios=(1, 5), layout="constrained")
    order = np.arange(len(names))
    if len(names) > 1:
        linkage = dendrogram.linkage(d_ss)
        look = {"no_labels": True, "link_color_func": lambda _: "#555555"}
        drawn = hierarchy.dendrogram(linkage, orientation="left", ax=tree, **look)
        order = np.array(drawn["leaves"])
        tree.invert_yaxis()
    tree.axis("off")
    picture = ax.imshow(d_ss[np.ix_(order, order)], cmap="cividis", aspect="auto", vmin=0)
    # Numbers below, for names of models are long and would cross one another there.
    below = [str(i) if len(names) <= _MAX_NUMBERS else "" for i in range(1, len(names) + 1)]
    ax.set_xticks(range(len(names)), below, fontsize=9.5)
    ax.set_yticks(range(len(names)), [f"{i}  {names[row]}" for i, row in enumerate(order, 1)], fontsize=9.5)
    ax.yaxis.tick_right()
    if len(names) <= 12:
        _numbers(ax, d_ss[np.ix_(order, order)])
    bar = figure.colorbar(picture, ax=[tree, ax], location="top", shrink=0.5, aspect=30)
    bar.set_label("cosine distance of centroids")
    return png(figure)


def _numbers(ax: Axes, d_ss: Array) -> None:
    for (i, j), value in np.ndenumerate(d_ss):
        ink = "white" if value < 0.55 * d_ss.max() or not d_ss.max() else "black"
        ax.text(j, i, f"{value:.2f}" if i != j else "–", ha="center", va="center", color=ink, fontsize=9.5)


def scores(encoders: Sequence[dict]) -> bytes:
    """k-NN accuracy with its interval a line for each encoder, on value rows and on control rows.

    Args:
      encoders: metrics.json's `encoders`; what has no score leaves its line empty.
    """
    lines = [(e["encoder"], e, "values") for e in encoders]
    lines += [(e["encoder"], e["control"], "control") for e in encoders if e["control"]]
    lines.sort(key=lambda line: [e["encoder"] for e in encoders].index(line[0]))
    figure, ax = plt.subplots(figsize=(7, 1.6 + 0.55 * len(lines)), layout="constrained")
    look = {"values": (PALETTE[0], "o"), "control": (PALETTE[1], "s")}
    for y, (_, part, kind) in enumerate(lines):
        tint, marker = look[kind]
        if not part["knn"]:
            ax.text(0.01, y, "fewer than two sources", va="center", color="#555555")
            continue
        lo, hi = part["knn"]["acc_ci"] or [part["knn"]["acc"]] * 2
        ax.plot([lo, hi], [y, y], color=tint, lw=3, alpha=0.5, solid_capstyle="round", clip_on=False)
        ax.plot(part["knn"]["acc"], y, marker, color=tint, ms=9, clip_on=False)
        ax.plot([part["chance"]] * 2, [y - 0.42, y + 0.42], color="#333333", ls="--", lw=1.4)
        ax.text(part["knn"]["acc"], y - 0.2, f"{part['knn']['acc']:.1%}", ha="center", fontsize=10)
    ax.set(xlim=(0, 1), ylim=(len(lines) - 0.4, -0.6), xlabel="k-NN accuracy on held-out questions")
    ax.set_yticks(range(len(lines)), [f"{name}\n{kind}" for name, _, kind in lines])
    ax.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    ax.grid(axis="x", color="#e5e5e5")
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    dashed = Line2D([], [], color="#333333", ls="--", label="chance")
    figure.legend(handles=[dashed], loc="outside upper right", frameon=False)
    return png(figure)


def nearest(placed: Sequence[dict]) -> bytes:
    """The energy of each of my sources to the nearest of the reference, with intervals and noise floors.

    Args:
      placed: place.json's `mine`.
    """
    lines = [(f"{found['source']} to {row['source']}", row) for found in placed for row in found["nearest"][:NEAREST]]
    figure, ax = plt.subplots(figsize=(8.5, 1.3 + 0.4 * max(1, len(lines))), layout="constrained")
    for y, (_, row) in enumerate(lines):
        ax.plot(row["ci"], [y, y], color=PALETTE[0], lw=3, alpha=0.5, solid_capstyle="round")
        ax.plot(row["energy"], y, "o", color=PALETTE[0], ms=8)
        if row["floor"] is not None:
            ax.plot([row["floor"]] * 2, [y - 0.38, y + 0.38], color="#333333", ls="--", lw=1.4)
    ax.set(ylim=(len(lines) - 0.4, -0.6), xlabel="energy distance, 95 % interval; dashed: noise floor")
    ax.set_yticks(range(len(lines)), [name for name, _ in lines])
    ax.grid(axis="x", color="#e5e5e5")
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return png(figure)


def png(figure: plt.Figure) -> bytes:
    """A figure's bytes; it is closed."""
    data = io.BytesIO()
    # No Software entry: equal runs give equal bytes under any version of matplotlib that draws equally.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # names the fonts here cannot draw
        figure.savefig(data, format="png", dpi=130, metadata={"Software": None})
    plt.close(figure)
    return data.getvalue()
