"""What the method's choices do to the vectors: python -m tests.experiments.run --qa=QA --out=OUT [--only=NAME,…]

Each run is prepare → train → export → embed → analyze with MiniLM on the English answers about values of two corpora,
and ends as one row of runs.csv beside this file. Run again, it goes on where it stood: stages that are finished say so,
and runs that have their row are left alone. --write puts the rows into README.md as a table. QA holds the folders
pct_open, valuebench and alpaca_eval, each with QA files in the columns that the README names. lambda20 and lambda80 are
for --encoder=NOMIC on an accelerator; they are the paper's settings, taken as they are.
"""

import csv
import dataclasses
import functools
import hashlib
import io
import json
import operator
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.experiments import tell
from univar_jax import cli, files, qa
from univar_jax.cli import UserError
from univar_jax.dataset import shards

# Corpora that are trained on, and for each set that is embedded and scored: corpus → share of its questions, since
# whole corpora would take longer to embed than to train, and the name it goes by.
TRAINED = {"all": ("pct_open", "valuebench"), "pct": ("pct_open",)}
SCORED = {
    "all": {"pct_open": (0.35, "pct_open"), "valuebench": (0.35, "valuebench"), "alpaca_eval": (0.5, "alpaca_eval")},
    # From one corpus to another that training never saw; the two forms of the one share five models with the other.
    "pct": {"pct_open": (0.35, "pct"), "pct_choice": (0.35, "pct"), "valuebench": (0.35, "valuebench")},
}
# As short a run at the paper's 2e-4 and 700 steps of warm-up would be all warm-up.
SHORT = {"pairs": 32, "steps": 150, "epochs": 1, "lr": 1e-4, "warmup_steps": 15, "log_every_steps": 1}
SHORT |= {"eval_every_steps": 0, "save_every_steps": 50}
LAMBDAS = {
    "lambda1": {"max_qas": 1, "max_tokens": 256, "short_row_tokens": 128},
    "lambda5": {"max_qas": 5, "max_tokens": 512, "short_row_tokens": 256},
    "lambda20": {"max_qas": 20, "max_tokens": 2048, "pairs": 64},
    "lambda80": {"max_qas": 80, "max_tokens": 8192, "pairs": 64},
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run by its name: LAMBDA-SAME_SOURCE-VIEWS-sSEED[-CORPORA], as lambda1-keep-free-s0.

    The two views of a pair may share a QA where they are free, and may not where they are apart. CORPORA is a name in
    TRAINED and SCORED.
    """

    name: str

    @functools.cached_property
    def words(self) -> tuple[str, str, str, int, str]:
        """The parts of the name."""
        *words, seed, corpora = (self.name if self.name.count("-") == 4 else f"{self.name}-all").split("-")
        known = (LAMBDAS, ("keep", "mask"), ("free", "apart"), TRAINED)
        if len(words) != 3 or not (all(map(operator.contains, known, (*words, corpora))) and seed[1:].isdigit()):
            raise UserError(f"--only={self.name} is not LAMBDA-keep|mask-free|apart-sSEED[-pct]")
        return (*words, int(seed[1:]), corpora)

    @property
    def config(self) -> dict:
        """Every key that differs from the package's defaults."""
        size, same_source, views, seed, _ = self.words
        return SHORT | LAMBDAS[size] | {"same_source": same_source, "disjoint_views": views == "apart", "seed": seed}

    @property
    def data(self) -> str:
        """A name for what prepare writes: same_source is train's alone."""
        size, _, views, seed, corpora = self.words
        return f"{size}-{views}-s{seed}-{corpora}"


# The plan: what the two choices do at lambda1, then seeds of the two best, from one corpus alone to another, and longer
# views.
PLAN = [f"lambda1-{same}-{views}-s0" for same in ("keep", "mask") for views in ("free", "apart")]
PLAN += [f"lambda1-{same}-free-s{seed}" for seed in (1, 2) for same in ("keep", "mask")]
PLAN += ["lambda1-mask-free-s0-pct", "lambda5-mask-free-s0"]


def stage(log: Path, name: str, *words: str) -> None:
    """Runs one stage of the package; what it says goes to a log."""
    with open(log, "a") as file:
        command = [sys.executable, "-m", f"univar_jax.{name}", *words]
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise UserError(f"{name} ended with {done.returncode}: {log}")


def scored(source: Path, out: Path, corpora: str) -> str:
    """Writes the QA files that are embedded, of the sources that have answers about values; sha256 of them all."""
    parts, total = SCORED[corpora], hashlib.sha256()
    out.mkdir(parents=True, exist_ok=True)
    answers = {corpus: qa.read(str(source / corpus)) for corpus in parts}
    values = [a.columns for a in answers.values() if qa.value_relevant(a).any()]
    known = {model for columns in values for model in columns["model"]}
    for corpus, (share, name) in parts.items():
        columns = answers[corpus].columns | {"dataset": [name] * len(answers[corpus])}
        keep = qa.heldout(columns["question_id"], 0, share)
        rows = [i for i, k in enumerate(keep) if k and columns["model"][i] in known and columns["lang"][i] == "eng"]
        text = io.StringIO(newline="")
        csv.writer(text).writerows([list(columns), *([column[i] for column in columns.values()] for i in rows)])
        files.write(out / f"{corpus}.csv", text.getvalue().encode())
        total.update(text.getvalue().encode())
    return total.hexdigest()


def measure(run: Run, source: Path, out: Path, encoder: str) -> dict:
    """All stages of a run; its row of runs.csv."""
    home = out / run.name
    home.mkdir(parents=True, exist_ok=True)
    config, log, data = home / "config.py", home / "log", out / "data" / run.data
    config.write_text(
        f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({run.config})\n"
    )
    corpora = run.words[-1]
    answers, untouched = out / "scored" / corpora, out / f"untouched-{corpora}.parquet"
    digest = scored(source, answers, corpora)
    do = functools.partial(stage, log)
    paths = ",".join(str(source / corpus) for corpus in TRAINED[corpora])
    do("prepare", f"--qa={paths}", "--lang=eng", f"--encoder={encoder}", f"--out={data}", f"--config={config}")
    began = time.monotonic()
    do("train", f"--data={data}", f"--config={config}", f"--workdir={home / 'run'}")
    seconds = time.monotonic() - began
    do("export", f"--workdir={home / 'run'}", f"--out={home / 'model'}")
    do("embed", f"--model={home / 'model'}", f"--qa={answers}", f"--out={home / 'trained.parquet'}")
    do("embed", f"--model={encoder}", f"--qa={answers}", f"--out={untouched}")
    both = f"{home / 'trained.parquet'},{untouched}"
    do("analyze", f"--embeddings={both}", f"--out={home / 'report'}")
    metrics = json.loads((home / "report" / "metrics.json").read_text())
    lines = [json.loads(line) for line in (home / "run" / "metrics.jsonl").read_text().splitlines()]
    about = {"name": run.name, "encoder": encoder, "train_s": round(seconds)}
    return about | prepared(data) | {"scored": digest[:16]} | tell.figures(metrics, lines)


def prepared(data: Path) -> dict:
    """What DATA's manifest says of the pairs."""
    manifest = shards.read_manifest(str(data))
    split = manifest["splits"]["train"]
    cut = (split["qas_dropped"], split["views_cut"], 2 * split["records"])
    fingerprint = manifest["fingerprint"][:16]
    return {"data": fingerprint, "qas_dropped": cut[0], "views_cut": cut[1], "views": cut[2]}


def experiments(source: str, out: str, only: Sequence[str], encoder: str) -> None:
    """Runs what has no row yet.

    Args:
      source: folder of the corpora.
      out: folder of the runs, hundreds of MB each.
      only: names of runs; () = the plan.
      encoder: what is trained.
    """
    for run in map(Run, only or PLAN):
        if run.name in {row["name"] for row in tell.rows()}:
            print(f"{run.name}: has its row", flush=True)
            continue
        row = measure(run, Path(source), Path(out), encoder)
        tell.append({"command": f"--only={run.name} {words(run.config)}", **row})
        print(f"{run.name}: k-NN {row['knn']}, paired {row['paired']}", flush=True)


def words(config: dict) -> str:
    """A config as the flags that prepare and train would take."""
    return " ".join(f"--config.{key}={value}" for key, value in config.items())


if __name__ == "__main__":
    from absl import flags

    flags.DEFINE_string("qa", None, "Folder of the corpora.")
    flags.DEFINE_string("out", None, "Folder of the runs, hundreds of MB each.")
    flags.DEFINE_list("only", [], "Names of runs, as lambda1-keep-free-s0; none: those of the plan.")
    flags.DEFINE_string("encoder", "minilm", "What is trained: minilm, a folder or a hub id.")
    flags.DEFINE_bool("write", False, "Only put runs.csv into README.md as a table.")

    def _main(f: flags.FlagValues) -> None:
        if f.write:
            tell.write()
            return
        cli.require(f, "qa", "out")
        experiments(f.qa, f.out, f.only, f.encoder)

    cli.run(_main)
