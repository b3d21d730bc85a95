"""Measures univar_jax beside its peers, on this machine, in one run: python -m tests.benchmarks.run --help.

Writes benchmarks.md, benchmarks.json and benchmarks.png into --out. The ways take turns step by step, each in a process
of its own, so that what else the machine does falls on all of them; only ratios travel to other machines. Needs the
extras [test] and [benchmarks].
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from tests.benchmarks import fill, ways
from univar_jax import qa
from univar_jax.config import complete
from univar_jax.dataset import shards
from univar_jax.encoders import flops, models

# Name, most QAs of a view, its cap, tokens of short rows, pairs. At 64 pairs of lambda5 the four processes that take
# turns would need more than 24 GB.
SETTINGS = (("lambda1", 1, 256, 128, 64), ("lambda5", 5, 512, 256, 32))
_LOSS_LIMIT = 1e-4
# Until then a process still takes new memory of the system, the more slowly the less of it lies ready.
_WARM = 3

_FLAGS = flags.FLAGS
flags.DEFINE_string("qa", None, "QA files to measure on.", required=True)
flags.DEFINE_string("out", None, "Folder for the table, the figures and the plot.", required=True)
flags.DEFINE_integer("steps", 8, f"Steps of each way; the first {_WARM} are not counted.", lower_bound=_WARM + 2)
flags.DEFINE_list("only", ["train", "embed", "fill", "loss", "devices"], "Which parts to run.")
flags.DEFINE_list("settings", [name for name, *_ in SETTINGS], "Which of the training settings to measure.")
flags.DEFINE_integer("texts", 512, "Texts that are embedded.", lower_bound=1)


def measure_training(out: Path, name: str, max_qas: int, cap: int, short: int, pairs: int) -> dict:
    """Steps of every way on the same pairs; refuses figures of ways whose first losses differ."""
    work = out / name
    values = {"max_qas": max_qas, "max_tokens": cap, "pairs": pairs, "epochs": 1, "short_row_tokens": short}
    values |= {"scale": ways.SCALE, "lr": ways.LR, "warmup_steps": 1, "save_every_minutes": 0.0}
    prepared = _prepare(work, values)
    records, texts = _choose(work / "data", _FLAGS.steps * pairs)
    facts = {"config": values, "data": str(work / "data"), "records": records, "minilm": str(models.folder("minilm"))}
    (work / "work.json").write_text(json.dumps(facts))
    (work / "texts.json").write_text(json.dumps(texts))
    said = ways.lock_step("train", list(ways.TRAIN), work, _FLAGS.steps)
    first = {way: steps[0]["loss"] for way, steps in said.items()}
    if max(first.values()) - min(first.values()) > _LOSS_LIMIT:
        raise SystemExit(f"{name}: the first losses differ by more than {_LOSS_LIMIT}: {first}")
    lengths = shards.Shards(work / "data", shards.read_manifest(str(work / "data")), "train").lengths()[records]
    return {
        "name": name,
        "cap": cap,
        "pairs": pairs,
        "prepare": prepared,
        "first_losses": first,
        "ways": _rows(said, lengths, pairs),
    }


def _prepare(work: Path, values: dict, encoder: str = "minilm") -> dict:
    work.mkdir(parents=True, exist_ok=True)
    (work / "config.py").write_text(
        f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({values})\n"
    )
    began = time.perf_counter()
    words = [f"--qa={_FLAGS.qa}", f"--encoder={encoder}", f"--out={work / 'data'}", f"--config={work / 'config.py'}"]
    subprocess.run([sys.executable, "-m", "univar_jax.prepare", *words], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    splits = shards.read_manifest(str(work / "data"))["splits"]
    records = sum(s["records"] for s in splits.values())
    return {"records": records, "seconds": seconds, "tokens": sum(s["tokens"] for s in splits.values())}


def _choose(data: Path, count: int) -> tuple[list[int], list[tuple[str, str]]]:
    """The first records whose views are spelt by text as they lie in the shard, and those texts."""
    split = shards.Shards(data, shards.read_manifest(str(data)), "train")
    pairs = [split.read(i) for i in range(len(split))]
    tokenizer = models.tokenizer(models.folder("minilm"))
    anchors = ways.roundtrip(tokenizer, [p.anchor for p in pairs])
    keys = ways.roundtrip(tokenizer, [p.key for p in pairs])
    good = [(i, (a, k)) for i, (a, k) in enumerate(zip(anchors, keys, strict=True)) if a and k][:count]
    if len(good) < count:
        raise SystemExit(f"only {len(good)} usable pairs in {data}; use fewer --steps")
    print(f"{count} pairs out of the first {good[-1][0] + 1}", file=sys.stderr)
    return [i for i, _ in good], [text for _, text in good]


def _rows(said: dict[str, list[dict]], lengths: np.ndarray, pairs: int) -> dict:
    architecture = models.read_config(models.folder("minilm"))
    real = lengths.reshape(_FLAGS.steps, -1)[_WARM:].sum(1).mean()
    config = complete(ConfigDict({"pairs": pairs}))
    inside = _operations(architecture, config, lengths[_WARM * pairs :].ravel()) / (_FLAGS.steps - _WARM)
    rows = {}
    for way, steps in said.items():
        seconds = [step["seconds"] for step in steps[_WARM:]]
        slots = statistics.mean(sum(r * t for r, t in step["rows"]) for step in steps[_WARM:])
        spent = [np.repeat([t for _, t in step["rows"]], [r for r, _ in step["rows"]]) for step in steps[_WARM:]]
        computed = statistics.mean(_operations(architecture, config, x) for x in spent)
        median = statistics.median(seconds)
        rows[way] = {
            "seconds": [median, min(seconds), max(seconds)],
            "pairs_per_s": pairs / median,
            "tokens_per_s": real / median,
            "fill": real / slots,
            "slots": slots,
            "computed_to_needed_flops": computed / inside,
            "peak_gb": steps[-1]["peak"] / 1e9,
        }
    for row in rows.values():
        row["ours_is_faster"] = row["seconds"][0] / rows["ours"]["seconds"][0]
        row["slots_to_ours"] = row["slots"] / rows["ours"]["slots"]
    return rows


def _operations(architecture: models.EncoderConfig, config: ConfigDict, lengths: np.ndarray) -> float:
    """FLOPs of the linear maps and of attention for texts, or rows, of these lengths."""
    found = flops.step(architecture, config, np.asarray(lengths)[None])
    return float(found["linear"][0] + found["attention"][0])


def measure_embedding(out: Path) -> dict:
    """Both ways on the same texts, all of them a step; refuses figures of vectors that differ."""
    work = out / "embed"
    work.mkdir(parents=True, exist_ok=True)
    answers = qa.read(_FLAGS.qa)
    some = np.random.Philox(0).random_raw(len(answers)).argsort(kind="stable")[: _FLAGS.texts]
    columns = answers.columns
    texts = [qa.text(columns["question"][i], columns["answer"][i]) for i in some]
    facts = {"texts": texts, "cap": 512, "minilm": str(models.folder("minilm"))}
    (work / "work.json").write_text(json.dumps(facts))
    said = ways.lock_step("embed", list(ways.EMBED), work, _FLAGS.steps)
    apart = float(np.abs(np.load(work / "ours.npy") - np.load(work / "longest.npy")).max())
    if apart > _LOSS_LIMIT:
        raise SystemExit(f"the vectors differ by {apart}")
    rows = {}
    for way, steps in said.items():
        seconds = [step["seconds"] for step in steps[_WARM:]]
        median = statistics.median(seconds)
        rows[way] = {"seconds": [median, min(seconds), max(seconds)], "texts_per_s": len(texts) / median}
        rows[way]["peak_gb"] = steps[-1]["peak"] / 1e9
    for row in rows.values():
        row["ours_is_faster"] = row["seconds"][0] / rows["ours"]["seconds"][0]
    return {"texts": len(texts), "apart": apart, "ways": rows}


def measure_loss() -> list[dict]:
    """XLA's temporaries of the loss's gradient, by form and pairs, over 8 virtual devices: compiled, not run."""
    return json.loads(_child("loss", 8))


def measure_devices() -> list[dict]:
    """Steps/s over 1, 2, 4 and 8 virtual devices with the same work for each."""
    return [json.loads(_child("devices", count)) for count in (1, 2, 4, 8)]


def _child(what: str, devices: int) -> str:
    given = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.benchmarks.virtual", what]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=given).stdout


def machine() -> str:
    """This machine in words."""
    import jax
    import torch

    name = next((x.split(":")[1].strip() for x in _cpuinfo() if x.startswith("model name")), platform.processor())
    kinds = ", ".join(sorted({d.device_kind for d in jax.devices()}))
    return f"{os.cpu_count()} cores of {name}; jax {jax.__version__} on {kinds}; torch {torch.__version__}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main(_: list[str]) -> None:
    out = Path(_FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    found: dict = {"machine": machine(), "qa": Path(_FLAGS.qa).name, "steps": _FLAGS.steps - _WARM}
    if "train" in _FLAGS.only:
        found["train"] = [measure_training(out, *setting) for setting in SETTINGS if setting[0] in _FLAGS.settings]
    if "embed" in _FLAGS.only:
        found["embed"] = measure_embedding(out)
    if "fill" in _FLAGS.only:
        found["fill"] = fill.measure(out, _prepare)
    if "loss" in _FLAGS.only:
        found["loss"] = measure_loss()
    if "devices" in _FLAGS.only:
        found["devices"] = measure_devices()
    (out / "benchmarks.json").write_text(json.dumps(found, indent=1) + "\n")
    from tests.benchmarks import tell

    (out / "benchmarks.md").write_text(tell.table(found))
    tell.plot(found, out / "benchmarks.png")
    print(tell.table(found))


if __name__ == "__main__":
    app.run(main)
