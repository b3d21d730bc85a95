"""What a run found as a row of runs.csv, and the rows as README.md's table."""

import csv
import io
from pathlib import Path

from univar_jax import files
from univar_jax.cli import UserError

RUNS = Path(__file__).with_name("runs.csv")
README = Path(__file__).parents[2] / "README.md"
START, END = "<!-- experiments: python -m tests.experiments.run --write -->", "<!-- /experiments -->"
# Steps whose loss is averaged.
_LAST = 20


def figures(metrics: dict, lines: list[dict]) -> dict:
    """The figures of metrics.json (trained first, untouched second) and of metrics.jsonl that a row holds."""
    trained, untouched = metrics["encoders"]
    last = lines[-_LAST:]
    row = {key: f"{sum(line[key] for line in last) / len(last):.4f}" for key in ("loss", "loss_floor")}
    row |= {key: metrics[key] for key in ("n_fit", "n_scored", "groups", "sources")}
    row |= {"chance": _round(metrics["chance"]), "knn": _span(trained), "untouched": _span(untouched)}
    row["paired"] = paired(metrics["paired"][0])
    row |= {"tfidf": _tfidf(metrics), "permutation_p": metrics["permutation_p"]}
    row |= {"lengths": _span(trained["length_matched"]), "lengths_untouched": _span(untouched["length_matched"])}
    row |= {"control": _span(trained["control"]), "control_untouched": _span(untouched["control"])}
    row["control_tfidf"] = _tfidf(trained["control"])
    for name, scores in (("ratio", trained), ("ratio_untouched", untouched)):
        row[name] = _ratio(scores["value_to_control"])
    row["ratio_tfidf"] = _ratio((trained["value_to_control"] or {}).get("tfidf"))
    for name, scores in (("across", trained), ("across_untouched", untouched)):
        found = [part for part in scores["across"] if part["scored"] == "valuebench"]
        row[name] = _span(found[0]) if found else ""
        if scores is trained:
            row |= {"across_chance": _round(found[0]["chance"]), "across_groups": found[0]["groups"]} if found else {}
            row["across_tfidf"] = _tfidf(found[0]) if found else ""
            row["across_paired"] = paired(found[0]["tfidf"]["paired"]) if found else ""
    return row


def _round(value: float) -> str:
    return f"{value:.3f}".removeprefix("0") if 0 <= value < 1 else f"{value:.3f}"


def interval(value: float, ends: list[float] | None) -> str:
    """A figure with its interval, three digits."""
    return f"{_round(value)} [{', '.join(map(_round, ends))}]" if ends else _round(value)


def _span(scores: dict | None) -> str:
    return interval(scores["knn"]["acc"], scores["knn"]["acc_ci"]) if scores and scores["knn"] else ""


def _tfidf(scores: dict | None) -> str:
    return interval(scores["tfidf"]["acc"], scores["tfidf"]["acc_ci"]) if scores and scores["tfidf"] else ""


def _ratio(found: dict | None) -> str:
    return interval(found["ratio"], found["ci"]) if found and found["ratio"] is not None else ""


def paired(found: dict) -> str:
    """A difference with its interval."""
    ends = ", ".join(f"{end:+.3f}" for end in found["ci"]) if found["ci"] else ""
    return f"{found['difference']:+.3f}" + (f" [{ends}]" if ends else "")


def rows(path: Path | None = None) -> list[dict]:
    """All finished runs, of runs.csv or of another file."""
    path = path or RUNS
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append(row: dict, path: Path | None = None) -> None:
    """Writes the rows that are there, and one more, as one whole file."""
    path = path or RUNS
    known = rows(path)
    names = list(dict.fromkeys(name for r in (*known, row) for name in r))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows([*known, row])
    files.write(path, text.getvalue().encode())


def table(found: list[dict]) -> str:
    """Markdown: one line a run."""
    lines = [
        "| run | loss, its floor | cut views | k-NN | − untouched | control | values to control "
        "| equal lengths | other corpus |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        cut = int(row["views_cut"]) / int(row["views"])
        lines.append(
            f"| {row['name']} | {float(row['loss']):.2f}, {float(row['loss_floor']):.2f} | {cut:.3f} | {row['knn']} "
            f"| {row['paired']} | {row['control']} | {row['ratio']} | {row['lengths']} | {row['across']} |"
        )
    return "\n".join(lines)


def write() -> None:
    """Puts the table between README.md's markers."""
    text = README.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise UserError(f"{README} needs {START} and {END}, in this order")
    files.write(README, f"{before}{START}\n{table(rows())}\n{END}{after}".encode())
