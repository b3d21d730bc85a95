"""Does a strong model learn more than its weak teachers know? On real answers:

    python -m tests.experiments.weak_to_strong --qa=QA --out=OUT [--strong2=FOLDER] [--seeds=0,1,2]

The task: which LLM gave an answer, by the first tokens of English answers about values. Question groups lie on one of
three sides:

  weak      three teachers, each of a third of these groups: MiniLM's first two layers, frozen, and a linear probe
  student   what teachers label and students learn. Students: MiniLM, all layers fine-tuned from a probe on, on the
            labels of one teacher, or of the soft or hard vote of all three. Ceiling: the same on true labels
  test      what all of them are scored on; the same for all seeds

--strong2 is a second strong model, frozen, with a probe on the same labels. What every trained model predicted stays in
OUT, so that the same command goes on where it stopped; finished seeds, and all of them together, are rows of
weak_to_strong.csv beside this file. The last step is `transfer --predictions`, whose report lies in OUT.
"""

import csv
import dataclasses
import io
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tests.experiments import run, tell, tune
from tests.experiments.tune import Model
from univar_jax import cli, config, files, qa
from univar_jax.cli import UserError
from univar_jax.encoders import weights
from univar_jax.statistics import predictions, recovered, resamples
from univar_jax.statistics.predictions import HARD, SOFT, Predicted
from univar_jax.training import programs

ROWS = Path(__file__).with_name("weak_to_strong.csv")
# Answers of each side, by lot; a third of the weak ones for each teacher.
SIZES = {"weak": 900, "student": 480, "test": 600}
TEACHERS = ("third 1", "third 2", "third 3")
# Layers of a teacher.
LAYERS = 2
_SPLIT = 80  # a stream of random numbers of its own
_TEST_SHARE, _FEWEST = 0.4, 10


@dataclasses.dataclass(frozen=True)
class Task:
    """Answers to be named, and what names them.

    Attributes:
      texts, groups: of each answer.
      label_n: int [n], the model's place in classes.
      digest: of all that decides the figures but the seed.
    """

    texts: list[str]
    groups: np.ndarray
    label_n: np.ndarray
    classes: list[str]
    digest: str


def task(paths: str, strong: Sequence[Model]) -> Task:
    """The English answers of QA files about values; the label is the model."""
    answers = qa.read(paths)
    keep = np.flatnonzero(qa.value_relevant(answers) & (np.array(answers.columns["lang"]) == "eng"))
    answers = answers.take(keep)
    classes, label_n = np.unique(answers.columns["model"], return_inverse=True)
    groups = np.array(qa.groups(answers.columns), object)
    settings = {"files": answers.files, "weights": [weights.digest(model.params) for model in strong]}
    settings |= {"sizes": SIZES, "layers": LAYERS, "tokens": tune.MAX_TOKENS, "probe": tune.PROBE, "edition": 1}
    settings["tuning"] = [tune.BATCH, tune.EPOCHS, tune.LR, tune.WARMUP]
    least = _FEWEST + 2 * len(TEACHERS)
    if (there := resamples.groups_of(groups)) < least:
        raise UserError(f"--qa={paths}: {there} question groups; {least} are needed, ten of them to be tested")
    return Task(answers.columns["answer"], groups, label_n, classes.tolist(), config.digest(settings)[:8])


def sides(of: Task, seed: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Rows of each teacher, of the students and of the test, by whole groups; the test is the same for all seeds."""
    groups = resamples.draws(0, _SPLIT).permutation(np.unique(of.groups))
    tested = max(_FEWEST, round(_TEST_SHARE * len(groups)))
    rest = resamples.draws(seed, _SPLIT, 1).permutation(groups[tested:])
    weak, student = rest[: (len(rest) + 1) // 2], rest[(len(rest) + 1) // 2 :]

    def drawn(some: np.ndarray, size: int, seed: int) -> np.ndarray:
        rows = np.flatnonzero(np.isin(of.groups, some))
        return np.sort(resamples.draws(seed, _SPLIT, 2).permutation(rows)[:size])

    size = SIZES["weak"] // len(TEACHERS)
    thirds = [drawn(some, size, seed) for some in np.array_split(weak, len(TEACHERS))]
    return thirds, drawn(student, SIZES["student"], seed), drawn(groups[:tested], SIZES["test"], 0)


def one_seed(of: Task, model: Model, second: Model | None, seed: int, out: Path) -> None:
    """Trains what is not there yet and writes OUT/seed-SEED.csv, in the format of `predictions`."""
    thirds, student, test = sides(of, seed)
    texts = lambda rows: [of.texts[i] for i in rows]  # noqa: E731
    c, small = len(of.classes), model.first(LAYERS)
    heads = [tune.probe(small.vectors(texts(rows)), of.label_n[rows], c, seed) for rows in thirds]
    z_student, z_test = small.vectors(texts(student)), small.vectors(texts(test))
    teachers = [tune.said(z_student, head) for head in heads]
    rows = [("weak", name, "", tune.said(z_test, head)) for name, head in zip(TEACHERS, heads, strict=True)]
    labels = {name: made.label_m for name, made in zip(TEACHERS, teachers, strict=True)}
    labels |= {how: predictions.vote(teachers, how)[0].label_m for how in (SOFT, HARD)}
    labels[""] = of.label_n[student]

    def tuned(label_n: np.ndarray) -> Predicted:
        made, head = tune.fine_tuned(model, texts(student), label_n, c, seed)
        return tune.said(made.vectors(texts(test)), head)

    strong: list[tuple[str, Callable]] = [(model.name, tuned)]
    if second:
        z = [second.vectors(texts(some)) for some in (student, test)]
        strong.append((second.name, lambda label_n: tune.said(z[1], tune.probe(z[0], label_n, c, seed))))
    for (name, learn), (by, label_n) in itertools.product(strong, labels.items()):
        made = _kept(out / f"seed-{seed}" / f"{name}, {by or 'true labels'}.npy", learn, label_n)
        rows.append(("student" if by else "ceiling", name, by, made))
        print(
            f"seed {seed}: {name}, {by or 'true labels'}: {(made.label_m == of.label_n[test]).mean():.3f}", flush=True
        )
    _write(out / f"seed-{seed}.csv", of, test, rows, seed)


def _kept(path: Path, learn: Callable[[np.ndarray], Predicted], label_n: np.ndarray) -> Predicted:
    """The probabilities of a file, which is made where there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(path) as file:
            np.save(file, learn(label_n).p_mc)
    p_mc = np.load(path)
    return Predicted(p_mc.argmax(1), p_mc)


def _write(path: Path, of: Task, test: np.ndarray, rows: list[tuple], seed: int) -> None:
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(
        ["item", "group", "truth", "role", "name", "taught_by", "seed", "label"] + [f"p_{c}" for c in of.classes]
    )
    for role, name, by, made in rows:
        for i, label, p_c in zip(test.tolist(), made.label_m.tolist(), made.p_mc.tolist(), strict=True):
            about = [i, of.groups[i], of.classes[of.label_n[i]], role, name, by, seed, of.classes[label]]
            lines.writerow([*about, *(f"{p:.6f}" for p in p_c)])
    files.write(path, text.getvalue().encode())


def tell_rows(name: str, path: Path, seconds: float, command: str) -> None:
    """Appends a row a student of a file of predictions to weak_to_strong.csv."""
    found = recovered.measure(predictions.read(str(path), path.read_bytes()), 0)
    for x in found["students"]:
        row = {"run": name, "name": x["name"], "taught_by": x["taught_by"], "ensemble": x["ensemble"] or ""}
        row |= {key: f"{x[key]:.3f}" for key in ("weak", "student", "ceiling")}
        row |= {"gain": tell.paired(x["gain"]), "verdict": x["verdict"]}
        row["pgr"] = tell.interval(x["pgr"], x["ci"]) if x["pgr"] is not None else x["no_pgr"]
        row |= {"items": found["items"], "groups": found["groups"], "chance": f"{found['chance']:.3f}"}
        tell.append(row | {"seconds": round(seconds), "command": command}, ROWS)


def experiment(paths: str, out: str, seeds: Sequence[int], strong: str, strong2: str = "") -> None:
    """All seeds that are not finished, then the report of all of them.

    Args:
      paths: QA files.
      out: folder of what was predicted, some MB.
      seeds: of splits, probes and batches.
      strong: MODEL that is fine-tuned, and whose first layers are the teachers.
      strong2: MODEL that stays frozen, or "".
    """
    model, second = tune.open_model(strong, "fine-tuned"), tune.open_model(strong2, "frozen") if strong2 else None
    of = task(paths, [m for m in (model, second) if m])
    whole = f"{of.digest}-s{'+'.join(map(str, seeds))}"
    home, command = Path(out) / of.digest, f"--seeds={','.join(map(str, seeds))} --strong2={Path(strong2).name}"
    if whole in {row["run"] for row in tell.rows(ROWS)}:
        print(f"{whole}: has its rows", flush=True)
        return
    home.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        began = time.monotonic()
        if not (home / f"seed-{seed}.csv").exists():
            one_seed(of, model, second, seed, home)
        if len(seeds) > 1 and (name := f"{of.digest}-s{seed}") not in {row["run"] for row in tell.rows(ROWS)}:
            tell_rows(name, home / f"seed-{seed}.csv", time.monotonic() - began, command)
    parts = [(home / f"seed-{seed}.csv").read_bytes() for seed in seeds]
    joined = home / f"predictions-{'-'.join(map(str, seeds))}.csv"
    files.write(joined, parts[0] + b"".join(part.split(b"\n", 1)[1] for part in parts[1:]))
    report = home / f"report-{'-'.join(map(str, seeds))}"
    run.stage(home / "log", "transfer", f"--predictions={joined}", f"--out={report}")
    tell_rows(whole, joined, 0, command)
    print((home / "log").read_text(), end="")


if __name__ == "__main__":
    from absl import flags

    flags.DEFINE_string("qa", None, "QA files: comma-separated files, folders and globs.", required=True)
    flags.DEFINE_string("out", None, "Folder of what was predicted; the same command goes on there.", required=True)
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Of splits, probes and batches.")
    flags.DEFINE_string("strong", "minilm", "What is fine-tuned, and whose first layers teach.")
    flags.DEFINE_string("strong2", "", "A second strong model, frozen, with a probe: a folder or a hub id.")

    def _main(f: flags.FlagValues) -> None:
        programs.keep_memory()
        programs.cache()
        experiment(f.qa, f.out, [int(seed) for seed in f.seeds], f.strong, f.strong2)

    cli.run(_main)
