"""The folder of a run: config.json, checkpoints/, metrics.jsonl and TensorBoard events; written by train only."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorboardX
from etils import epath
from ml_collections import ConfigDict

from univar_jax import __version__, cli, files, models, step
from univar_jax import config as configs
from univar_jax.cli import UserError

_CHECKPOINTS, _CONFIG, _METRICS = "checkpoints", "config.json", "metrics.jsonl"
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
    return "://" not in path and _about(Path(path).expanduser()) is not None


def read(workdir: str, step: int | None = None) -> Run:
    """Reads a run at a checkpoint, the newest where `step` is None; on one device, needs none of our classes.

    Raises:
      UserError: no run there, no finished checkpoint, or none of that step.
    """
    folder = files.local(workdir, "workdir")
    about = _about(folder)
    if about is None:  # before Orbax, which would make its folder there
        raise UserError(f"{folder} is no run: it has no {_CONFIG} of ours; give the --workdir of univar_jax.train")
    with manager(workdir, keep=None) as checkpoints:
        steps = checkpoints.all_steps()
        step = checkpoints.latest_step() if step is None else step
        if step not in steps:
            have = f"steps {', '.join(map(str, steps))}" if steps else "none yet"
            wanted = "" if step is None else f" of step {step}"
            raise UserError(f"{folder}/{_CHECKPOINTS} has no finished checkpoint{wanted} (there: {have})")
        with _undamaged(checkpoints, step):
            params = _params(checkpoints, step)
    return Run(
        params=jax.tree.map(np.asarray, params["encoder"]),
        step=step,
        config=about["config"],
        manifest=about["data"],
        encoder_folder=models.folder(about["encoder"]["model"]),
        metrics=[line for line in _lines(folder / _METRICS) if line["step"] <= step],
        identity=about["identity"],
    )


@contextlib.contextmanager
def _undamaged(checkpoints: ocp.CheckpointManager, finished: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of a file that is cut, changed or gone Orbax raises a bare one
        where = checkpoints.directory / str(finished)
        why = cli.one_line(error)[:160]
        raise UserError(f"{where} is damaged ({why}); remove it, and the checkpoint before it counts") from error


def _about(folder: Path) -> dict | None:
    """RUN/config.json; None where there is none, or another program's."""
    try:
        about = json.loads((folder / _CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) and "identity" in about and "parts" in about else None


def _params(checkpoints: ocp.CheckpointManager, finished: int) -> dict:
    """Restores onto this machine's first device, whatever mesh the arrays were saved from."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    tree = checkpoints.item_metadata(finished)["params"].tree
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), tree)
    return checkpoints.restore(finished, args=ocp.args.Composite(params=ocp.args.StandardRestore(shapes)))["params"]


def manager(workdir: str, keep: int | None) -> ocp.CheckpointManager:
    """Orbax over RUN/checkpoints; a checkpoint is there whole or not at all.

    Items: params and moments (plain nested dicts of arrays), run (JSON).
    """
    policy = ocp.checkpoint_managers.LatestN(keep) if keep else None
    return ocp.CheckpointManager(
        epath.Path(files.local(workdir, "workdir")) / _CHECKPOINTS,
        options=ocp.CheckpointManagerOptions(preservation_policy=policy),
        item_handlers={
            "params": ocp.StandardCheckpointHandler(),
            "moments": ocp.StandardCheckpointHandler(),
            "run": ocp.JsonCheckpointHandler(),
        },
    )


def save(checkpoints: ocp.CheckpointManager, finished: int, state: step.State, identity: str) -> None:
    """Starts saving the state after `finished` steps; the arrays are copied before this returns."""
    parts = {
        "params": ocp.args.StandardSave(state["params"]),
        "moments": ocp.args.StandardSave(step.moments(state)),
        "run": ocp.args.JsonSave({"identity": identity, "step": finished}),
    }
    checkpoints.save(finished, args=ocp.args.Composite(**parts))


def restore(
    checkpoints: ocp.CheckpointManager, finished: int, state: step.State, shardings: step.State, identity: str
) -> step.State:
    """The state after `finished` steps, on the mesh of `shardings` whatever it was saved from.

    Raises:
      UserError: the checkpoint is of another run.
    """
    about = checkpoints.restore(finished, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
    if about["identity"] != identity:
        raise UserError(
            f"{checkpoints.directory}/{finished} is the checkpoint of another run (another encoder, data or config: "
            f"{about['identity'][:8]}, this one is {identity[:8]}); give another --workdir"
        )

    def target(tree: dict, placed: dict) -> ocp.args.StandardRestore:
        shapes = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, placed)
        return ocp.args.StandardRestore(shapes)

    parts = {
        "params": target(state["params"], shardings["params"]),
        "moments": target(step.moments(state), step.moments(shardings)),
    }
    with _undamaged(checkpoints, finished):
        found = checkpoints.restore(finished, args=ocp.args.Composite(**parts))
    return step.with_moments(state, found["params"], found["moments"])


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
    folder = files.local(workdir, "workdir")
    parts = {"config": configs.mathematics(config), "encoder": encoder["weights"], "data": manifest["fingerprint"]}
    identity = configs.digest(parts)
    there = _about(folder)
    if there is None:
        check_free(folder)
    if there is not None and there["identity"] != identity:
        raise UserError(f"--workdir={folder} holds another run ({_differences(there, parts)}); give another one")
    values = {"config": config.to_dict(), "encoder": encoder, "data": manifest, "version": __version__}
    return {"identity": identity, "parts": parts, **values}


def check_free(folder: Path) -> None:
    """Finds that a folder which is no run may become one: it is not there, empty, or holds a dry run's bill alone.

    Raises:
      UserError: it holds anything else.
    """
    if folder.exists() and (not folder.is_dir() or any(path.name != BILL for path in folder.iterdir())):
        raise UserError(f"--workdir={folder} exists and is no run; give another one")


def describe(workdir: str, about: dict) -> None:
    """Makes RUN and writes its config.json."""
    folder = files.local(workdir, "workdir")
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(about, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    files.write(folder / _CONFIG, text.encode())


def _differences(there: dict, parts: dict) -> str:
    old, new = there["parts"], json.loads(json.dumps(parts))
    keys = [
        f"config.{k}={v!r} was {old['config'].get(k)!r}" for k, v in new["config"].items() if old["config"].get(k) != v
    ]
    return ", ".join([f"another {k}" for k in ("encoder", "data") if old[k] != new[k]] + keys)


class Log:
    """metrics.jsonl and TensorBoard events, each step once.

    Args:
      workdir: RUN.
      step: finished steps of the checkpoint that the run goes on from; later lines are cut.
    """

    def __init__(self, workdir: str, step: int) -> None:
        folder = files.local(workdir, "workdir")
        path = folder / _METRICS
        kept = [line for line in _lines(path) if line["step"] <= step]
        files.write(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._board = tensorboardX.SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, line: dict[str, Any]) -> None:
        """Appends a line; its `step` counts finished steps from 1."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for key, value in line.items():
            if key != "step":
                self._board.add_scalar(key, value, line["step"])

    def close(self) -> None:
        """Flushes both."""
        self._file.close()
        self._board.close()


def _lines(path: Path) -> list[dict]:
    """The whole lines of metrics.jsonl; one that a crash cut short is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text("utf-8").split("\n"):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines
