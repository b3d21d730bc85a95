"""RUN/checkpoints by Orbax: a checkpoint is there whole or not at all, on a disk or in a bucket.

Orbax writes to disks and gs:// by itself. Its arrays cannot go to s3:// (0.12): there it writes to this machine's disk,
and whole checkpoints are copied.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from univar_jax import cli, files
from univar_jax.cli import UserError
from univar_jax.files import Place
from univar_jax.training import step

_FOLDER = "checkpoints"
_LAST = "_CHECKPOINT_METADATA"  # Orbax's; copied after all other files of a checkpoint


def manager(workdir: str, keep: int | None) -> ocp.CheckpointManager:
    """Orbax over RUN/checkpoints; the newest `keep` stay, and the one with the best k-NN; what a killed save left goes.

    None = all stays as it is, for who only reads: a save may be going on.

    Items: params and moments (plain nested dicts of arrays), run (JSON).

    Raises:
      UserError: many processes and a RUN on s3://.
    """
    kept = ocp.checkpoint_managers
    policy, score = None, lambda scores: scores["eval/knn"]
    if keep:
        best = kept.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False)
        policy = kept.AnyPreservationPolicy([kept.LatestN(keep), best])
    handlers: dict[str, ocp.CheckpointHandler] = {
        "params": ocp.StandardCheckpointHandler(),
        "moments": ocp.StandardCheckpointHandler(),
        "run": ocp.JsonCheckpointHandler(),
    }
    folder = epath.Path(files.place(workdir, "workdir")) / _FOLDER
    # A reader has a copy of its own: making a run's equal to the bucket would take what is being saved there.
    copied = functools.partial(_Copied, kind="runs" if keep else "reads")
    made = copied if workdir.startswith("s3://") else ocp.CheckpointManager
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        best_fn=score,  # without it Orbax writes no scores down, and after a restart the best would be forgotten
        cleanup_tmp_directories=bool(keep),
    )
    return made(folder, options=options, item_handlers=handlers)


class _Copied(ocp.CheckpointManager):
    """Checkpoints that Orbax writes on this machine's disk, with whole ones in a bucket; saves are not in background.

    The bucket's are those that count: the disk is made equal to it at the start, and it to the disk by each save.
    """

    def __init__(self, store: epath.Path, kind: str, **values: Any) -> None:
        if jax.process_count() > 1:
            raise UserError(
                f"{store}: many processes cannot save to s3://; give a --workdir on a shared disk or on gs://"
            )
        self._store = store
        self._here = epath.Path(files.cache()) / kind / hashlib.sha256(str(store).encode()).hexdigest()[:16]
        self._here.mkdir(parents=True, exist_ok=True)
        self._equal(self._here, store)
        super().__init__(self._here, **values)

    def save(self, *args: Any, **values: Any) -> bool:
        """Saves, waits, and copies."""
        saved = super().save(*args, **values)
        self.wait_until_finished()
        self._equal(self._store, self._here)
        return saved

    @staticmethod
    def _equal(target: epath.Path, source: epath.Path) -> None:
        """Copies the whole checkpoints that target lacks, and drops what source has not or target has not whole."""
        whole = {path.name: path for path in ocp.utils.checkpoint_steps_paths(source) if (path / _LAST).exists()}
        gone = []
        for path in list(target.iterdir()) if target.exists() else ():
            # Orbax's last file holds the time: a checkpoint of the same step that was saved again is another.
            last = path / _LAST
            if path.name in whole and last.exists() and last.read_text() == (whole[path.name] / _LAST).read_text():
                del whole[path.name]
            elif path.name in whole:
                path.rmtree()
            else:
                gone.append(path)
        for name, path in whole.items():
            files.copy_folder(path, target / name, _LAST)
        for path in gone:  # at the end: until the new ones are whole the old ones count
            path.rmtree()


def save(
    store: ocp.CheckpointManager, finished: int, state: step.State, identity: str, scores: dict[str, float]
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
    with _stored(store):
        store.save(finished, args=ocp.args.Composite(**parts), metrics=scores or None)


def wait(store: ocp.CheckpointManager) -> None:
    """Waits until the last save is finished; raises as `save`."""
    with _stored(store):
        store.wait_until_finished()


@contextlib.contextmanager
def _stored(store: ocp.CheckpointManager) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Orbax passes on whatever the disk, or the bucket's client, raises
        good = max(ocp.utils.checkpoint_steps(store.directory), default=None)
        last = f"the last good one is of step {good}" if good is not None else "there is none before it"
        raise UserError(
            f"{store.directory}: a checkpoint could not be written ({cli.one_line(error)[:160]}); {last}; "
            "mend that and start the same command again"
        ) from error


def restore(
    store: ocp.CheckpointManager, finished: int, state: step.State, shardings: step.State, identity: str
) -> step.State:
    """The state after `finished` steps, on the mesh of `shardings` whatever it was saved from.

    Raises:
      UserError: the checkpoint is of another run, or damaged.
    """
    about = store.restore(finished, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
    if about["identity"] != identity:
        raise UserError(
            f"{store.directory}/{finished} is the checkpoint of another run (another encoder, data or config: "
            f"{about['identity'][:8]}, this one is {identity[:8]}); give another --workdir"
        )

    def target(tree: dict, placed: dict) -> ocp.args.StandardRestore:
        shapes = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, placed)
        return ocp.args.StandardRestore(shapes)

    parts = {
        "params": target(state["params"], shardings["params"]),
        "moments": target(step.moments(state), step.moments(shardings)),
    }
    with _undamaged(store, finished):
        found = store.restore(finished, args=ocp.args.Composite(**parts))
    return step.with_moments(state, found["params"], found["moments"])


def params(workdir: str, finished: int | None) -> tuple[dict, int]:
    """The parameters after `finished` steps, None = the newest, on this machine's first device; and those steps.

    Raises:
      UserError: there is no finished checkpoint of that step, or it is damaged.
    """
    with manager(workdir, keep=None) as store:
        steps = store.all_steps()
        newest = store.latest_step() if finished is None else finished
        if newest not in steps:
            have = f"steps {', '.join(map(str, steps))}" if steps else "none yet"
            wanted = "" if newest is None else f" of step {newest}"
            raise UserError(f"{workdir}/{_FOLDER} has no finished checkpoint{wanted} (there: {have})")
        with _undamaged(store, newest):
            device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
            tree = store.item_metadata(newest)["params"].tree
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), tree)
            wanted_items = ocp.args.Composite(params=ocp.args.StandardRestore(shapes))
            return store.restore(newest, args=wanted_items)["params"], newest


@contextlib.contextmanager
def _undamaged(store: ocp.CheckpointManager, finished: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of a file that is cut, changed or gone Orbax raises a bare one
        where = store.directory / str(finished)
        why = cli.one_line(error)[:160]
        raise UserError(f"{where} is damaged ({why}); remove it, and the checkpoint before it counts") from error


def finished(run: Place) -> list[tuple[int, float]]:
    """Step, and time in seconds since the epoch, of each finished checkpoint of a RUN."""
    return sorted((int(path.name), _written(path)) for path in ocp.utils.checkpoint_steps_paths(run / _FOLDER))


def _written(checkpoint: epath.Path) -> float:
    try:
        return json.loads((checkpoint / _LAST).read_text())["commit_timestamp_nsecs"] / 1e9
    except (OSError, ValueError, KeyError, TypeError):
        return checkpoint.stat().mtime
