"""The benchmark's figures as a Markdown table and as a plot."""

from pathlib import Path

from tests.benchmarks import ways


def table(found: dict) -> str:
    """Markdown of everything that was measured."""
    parts = [f"{found['machine']}; `{found['qa']}`, float32, {found['steps']} counted steps each."]
    parts += [_training(part) for part in found.get("train", [])]
    if "embed" in found:
        parts.append(_embedding(found["embed"]))
    if "fill" in found:
        parts.append(_fill(found["fill"]))
    if "loss" in found:
        parts.append(_loss(found["loss"]))
    if "devices" in found:
        parts.append(_devices(found["devices"]))
    return "\n\n".join(parts) + "\n"


def _training(part: dict) -> str:
    lines = [
        f"Training, {part['name']} at {part['cap']} tokens, {part['pairs']} pairs (first losses within "
        f"{max(part['first_losses'].values()) - min(part['first_losses'].values()):.0e}; prepared "
        f"{part['prepare']['records']:,} records in {part['prepare']['seconds']:.1f} s):",
        "",
        "| way | s a step, median [range] | pairs/s | real tokens/s | fill | slots to ours | FLOPs done / needed "
        "| peak GB | ours is faster by |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for way, row in part["ways"].items():
        median, low, high = row["seconds"]
        lines.append(
            f"| {ways.TRAIN[way]} | {median:.2f} [{low:.2f}, {high:.2f}] | {row['pairs_per_s']:.1f} "
            f"| {row['tokens_per_s']:,.0f} | {row['fill']:.2f} | {row['slots_to_ours']:.2f} "
            f"| {row['computed_to_needed_flops']:.2f} | {row['peak_gb']:.1f} | {row['ours_is_faster']:.2f} |"
        )
    return "\n".join(lines)


def _embedding(part: dict) -> str:
    lines = [
        f"Embedding {part['texts']} texts (vectors within {part['apart']:.0e}):",
        "",
        "| way | s, median [range] | texts/s | peak GB | ours is faster by |",
        "|---|---|---|---|---|",
    ]
    for way, row in part["ways"].items():
        median, low, high = row["seconds"]
        lines.append(
            f"| {ways.EMBED[way]} | {median:.2f} [{low:.2f}, {high:.2f}] | {row['texts_per_s']:.1f} "
            f"| {row['peak_gb']:.1f} | {row['ours_is_faster']:.2f} |"
        )
    return "\n".join(lines)


def _fill(rows: list[dict]) -> str:
    body = [
        f"| {r['setting']}, views <= {r['cap']:,} | {r['row_tokens']:,} | {r['pairs']} / {r['devices']} | {r['steps']} "
        f"| {r['fill']:.3f} | {r['ceiling']:.3f} | {r['longest']:.2f} | {r['maximum']:.2f} |"
        for r in rows
    ]
    title = "Fill over an epoch (real tokens of the slots; the ceiling has a row count of its own in each step):"
    head = "| views | row tokens | pairs / devices | steps | packed | its ceiling | to the longest | to the cap |"
    return "\n".join([title, "", head, "|---" * 8 + "|", *body])


def _loss(rows: list[dict]) -> str:
    spreads = [key for key in rows[0] if key != "pairs"]
    head = f"| pairs | {' | '.join(spreads)} |\n|---|{'---|' * len(spreads)}"
    body = [f"| {row['pairs']:,} | {' | '.join(f'{row[s] / 2**20:,.0f}' for s in spreads)} |" for row in rows]
    title = "Temporaries of the loss's gradient, MiB a device of 8, vectors of 768 (XLA's memory_analysis):"
    return "\n".join([title, "", head, *body])


def _devices(rows: list[dict]) -> str:
    body = [f"| {r['devices']} | {r['pairs']} | {r['steps_per_s']:.2f} | {r['pairs_per_s']:.1f} |" for r in rows]
    title = "Virtual devices of one CPU, the same work for each (the cores are shared: pairs/s is what counts):"
    return "\n".join([title, "", "| devices | pairs | steps/s | pairs/s |", "|---|---|---|---|", *body])


def plot(found: dict, path: Path) -> None:
    """Pairs/s of every way, one panel a setting."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    parts = found.get("train", [])
    if not parts:
        return
    figure, axes = plt.subplots(1, len(parts), figsize=(5.5 * len(parts), 2.8), squeeze=False)
    for axis, part in zip(axes[0], parts, strict=True):
        names = list(part["ways"])
        rates = [part["ways"][way]["pairs_per_s"] for way in names]
        colors = ["#1b6ca8" if way == "ours" else "#b8c4ce" for way in names]
        bars = axis.barh(
            [
                {
                    "ours": "packed (ours)",
                    "longest": "longest in batch",
                    "cached": "longest, cached",
                    "maximum": "maximum",
                }[way]
                for way in names
            ],
            rates,
            color=colors,
        )
        axis.bar_label(bars, fmt="%.1f", padding=3)
        axis.invert_yaxis()
        axis.set_title(f"{part['name']}, {part['cap']} tokens", loc="left", fontsize=10)
        axis.set_xlabel("training pairs/s")
        axis.margins(x=0.12)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
