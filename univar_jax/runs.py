"""The folder of a run: config.json, checkpoints/, metrics.jsonl and TensorBoard events; written by train only."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict

from univar_jax import __version__, cli, files, logs, models, step
from univar_jax import config as configs
from univar_jax.cli import UserError

_CHECKPOINTS, _CONFIG = "checkpoints", "config.json"
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
        metrics=[line for line in logs.lines(folder) if line["step"] <= step],
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

    The newest `keep` stay, and the one with the best k-NN; None = all.

    Items: params and moments (plain nested dicts of arrays), run (JSON).
    """
    kept = ocp.checkpoint_managers
    policy = None
    if keep:
        best = kept.BestN(get_metric_fn=lambda scores: scores["eval/knn"], n=1, keep_checkpoints_without_metrics=False)
        policy = kept.AnyPreservationPolicy([kept.LatestN(keep), best])
    return ocp.CheckpointManager(
        epath.Path(files.local(workdir, "workdir")) / _CHECKPOINTS,
        options=ocp.CheckpointManagerOptions(preservation_policy=policy),
        item_handlers={
            "params": ocp.StandardCheckpointHandler(),
            "moments": ocp.StandardCheckpointHandler(),
            "run": ocp.JsonCheckpointHandler(),
        },
    )


def save(
    checkpoints: ocp.CheckpointManager, finished: int, state: step.State, identity: str, scores: dict[str, float]
) -> None:
    """Starts saving the state after `finished` steps; the arrays are copied before this returns.

    Raises:
      UserError: the store took this checkpoint, or the one before, not whole; the last good one is named.
    """
    parts = {
        "params": ocp.args.StandardSave(state["params"]),
        "moments": ocp.args.StandardSave(step.moments(state)),
        "run": ocp.args.JsonSave({"identity": identity, "step": finished}),
    }
    with _stored(checkpoints):
        checkpoints.save(finished, args=ocp.args.Composite(**parts), metrics=scores or None)


def wait(checkpoints: ocp.CheckpointManager) -> None:
    """Waits until the last save is finished; raises as `save`."""
    with _stored(checkpoints):
        checkpoints.wait_until_finished()


@contextlib.contextmanager
def _stored(checkpoints: ocp.CheckpointManager) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Orbax passes on whatever the disk, or the bucket's client, raises
        good = max((int(p.name) for p in Path(checkpoints.directory).iterdir() if p.name.isdigit()), default=None)
        last = f"the last good one is of step {good}" if good is not None else "there is none before it"
        raise UserError(
            f"{checkpoints.directory}: a checkpoint could not be written ({cli.one_line(error)[:160]}); {last}; "
            "mend that and start the same command again"
        ) from error


def overview(workdir: str) -> tuple[dict, list[dict], list[tuple[int, float]]]:
    """config.json, the lines of metrics.jsonl, and step and time of each finished checkpoint.

    Raises:
      UserError: no run there.
    """
    folder = files.local(workdir, "workdir")
    about = _about(folder)
    if about is None:
        raise UserError(f"--workdir={folder} is no run: it has no {_CONFIG} of ours")
    saved = [p for p in (folder / _CHECKPOINTS).glob("*") if p.name.isdigit()]  # Orbax writes under other names
    return about, logs.lines(folder), sorted((int(p.name), p.stat().st_mtime) for p in saved)


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
