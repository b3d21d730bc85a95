"""The folder of a run: config.json, checkpoints/, metrics.jsonl and TensorBoard events; written by train only."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from univar_jax import __version__, files
from univar_jax import config as configs
from univar_jax.cli import UserError
from univar_jax.encoders import models
from univar_jax.files import Place
from univar_jax.training import checkpoints, logs

_CONFIG = "config.json"
BILL = "bill.json"  # what a dry run puts into a RUN, before or after there is one


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as its folder tells it.

    Attributes:
      params: the encoder's, nested dict of float32 arrays.
      step: finished steps at the checkpoint.
      config: every key of the config.
      manifest: of the data.
      encoder_folder: the encoder that training started from.
      metrics: the lines of metrics.jsonl up to `step`.
      identity: sha256 of what makes the run what it is.
    """

    params: dict
    step: int
    config: dict
    manifest: dict
    encoder_folder: epath.Path
    metrics: list[dict]
    identity: str


def is_run(path: str) -> bool:
    """Whether a folder is a run's."""
    remote = path.startswith(("gs://", "s3://"))  # else a word, a hub id or a folder
    return _about(files.place(path, "model") if remote else Path(path).expanduser()) is not None


def read(workdir: str, step: int | None = None) -> Run:
    """Reads a run at a checkpoint, the newest where `step` is None; on one device, needs none of our classes.

    Raises:
      UserError: no run there, no finished checkpoint, or none of that step.
    """
    folder = files.place(workdir, "workdir")
    about = _about(folder)
    if about is None:  # before Orbax, which would make its folder there
        raise UserError(f"{folder} is no run: it has no {_CONFIG} of ours; give the --workdir of univar_jax.train")
    params, step = checkpoints.params(workdir, step)
    return Run(
        params=jax.tree.map(np.asarray, params["encoder"]),
        step=step,
        config=about["config"],
        manifest=about["data"],
        encoder_folder=models.folder(about["encoder"]["model"]),
        metrics=[line for line in logs.lines(folder) if line["step"] <= step],
        identity=about["identity"],
    )


def _about(folder: Place) -> dict | None:
    """RUN/config.json; None where there is none, or another program's."""
    try:
        about = json.loads((folder / _CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) and "identity" in about and "parts" in about else None


def overview(workdir: str) -> tuple[dict, list[dict], list[tuple[int, float]]]:
    """config.json, the lines of metrics.jsonl, and step and time of each finished checkpoint.

    Raises:
      UserError: no run there.
    """
    folder = files.place(workdir, "workdir")
    about = _about(folder)
    if about is None:
        raise UserError(f"--workdir={folder} is no run: it has no {_CONFIG} of ours")
    return about, logs.lines(folder), checkpoints.finished(folder)


def check_folder(workdir: str, config: ConfigDict, encoder: dict, manifest: dict) -> dict:
    """Finds that RUN is free or the same run.

    Args:
      workdir: RUN.
      config: complete.
      encoder: {"model": as given, "weights": digest}.
      manifest: DATA's.

    Returns:
      What `describe` is to write; its `identity` is the sha256 of encoder, data and all config but the machine's.

    Raises:
      UserError: RUN holds another run or anything else; nothing is touched.
    """
    folder = files.place(workdir, "workdir")
    parts = {"config": configs.mathematics(config), "encoder": encoder["weights"], "data": manifest["fingerprint"]}
    identity = configs.digest(parts)
    there = _about(folder)
    if there is None:
        check_free(folder)
    if there is not None and there["identity"] != identity:
        raise UserError(f"--workdir={folder} holds another run ({_differences(there, parts)}); give another one")
    values = {"config": config.to_dict(), "encoder": encoder, "data": manifest, "version": __version__}
    return {"identity": identity, "parts": parts, **values}


def check_free(folder: Place) -> None:
    """Finds that a folder which is no run may become one: it is not there, empty, or holds a dry run's bill alone.

    Raises:
      UserError: it holds anything else.
    """
    # All that is there of a run, or a dry run, which was killed in its first moment.
    nameless = [path for name in (_CONFIG, BILL) for path in files.leftovers(folder, name)]
    if folder.exists() and (
        not folder.is_dir() or any(path.name != BILL and path not in nameless for path in folder.iterdir())
    ):
        raise UserError(f"--workdir={folder} exists and is no run; give another one")


def describe(workdir: str, about: dict) -> None:
    """Makes RUN and writes its config.json; files that a killed process had not named yet go."""
    folder = files.place(workdir, "workdir")
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in files.leftovers(folder):
        leftover.unlink(missing_ok=True)
    text = json.dumps(about, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    files.write(folder / _CONFIG, text.encode())


def _differences(there: dict, parts: dict) -> str:
    old, new = there["parts"], json.loads(json.dumps(parts))
    keys = [
        f"config.{k}={v!r} was {old['config'].get(k)!r}" for k, v in new["config"].items() if old["config"].get(k) != v
    ]
    return ", ".join([f"another {k}" for k in ("encoder", "data") if old[k] != new[k]] + keys)
