"""How full the packed rows of an epoch are, by packing.plan on the lengths that prepare wrote; nothing is trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from univar_jax.dataset import shards
from univar_jax.encoders import models, packing

# Name, most QAs of a view, cap of a view, tokens of a row.
SETTINGS = (
    ("lambda1", 1, 256, 256),
    ("lambda5", 5, 512, 512),
    ("lambda5", 5, 1024, 2048),
    ("lambda80", 80, 8192, 16384),
)
_LOADS = ((64, 1), (512, 8))  # pairs, devices


def measure(out: Path, prepare: Callable[[Path, dict, str], dict]) -> list[dict]:
    """Fill and ceiling of each setting at each load.

    Args:
      out: folder to work in.
      prepare: (folder, values of the config, encoder) → facts; writes folder/data.
    """
    encoder, rows = _with_long_positions(out), []
    for name, max_qas, cap, row_tokens in SETTINGS:
        work = out / f"fill-{name}-{cap}"
        prepare(work, {"max_qas": max_qas, "max_tokens": cap, "epochs": 1}, str(encoder))
        lengths = shards.Shards(work / "data", shards.read_manifest(str(work / "data")), "train").lengths()
        for pairs, devices in _LOADS:
            steps = len(lengths) // pairs
            if not steps:
                continue
            plan = packing.plan(lengths, pairs, steps, packing.Layout(row_tokens, devices, 0))
            padded = lengths[: steps * pairs].reshape(steps, -1)
            rows.append(
                {
                    "setting": name,
                    "cap": cap,
                    "row_tokens": row_tokens,
                    "pairs": pairs,
                    "devices": devices,
                    "steps": steps,
                    "fill": plan.fill,
                    "ceiling": plan.ceiling,
                    # Anchors and keys are padded apart, as torch's trainers do.
                    "longest": float(padded.sum() / _to_longest(lengths[: steps * pairs], steps)),
                    "maximum": float(padded.sum() / (padded.size * cap)),
                }
            )
    return rows


def _to_longest(lengths_n2: np.ndarray, steps: int) -> int:
    longest_s2 = lengths_n2.reshape(steps, -1, 2).max(axis=1)
    return int(longest_s2.sum() * len(lengths_n2) // steps)


def _with_long_positions(out: Path) -> Path:
    """MiniLM's folder, said to have 8,192 positions: prepare needs the tokenizer and that number, no weights."""
    folder = out / "minilm-8192"
    shutil.copytree(models.folder("minilm"), folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    return folder
