"""The only loop: batches → step → metrics, checkpoints and a k-NN on held-out questions."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh
from ml_collections import ConfigDict, config_flags

from univar_jax import batches, cli, embed, encoder, evaluate, models, runs, shards, tokens, weights
from univar_jax import config as configs
from univar_jax import mesh as meshes
from univar_jax import step as steps_
from univar_jax.cli import UserError

# Views on either side of the in-loop k-NN: enough to see a trend, few enough to cost a few steps.
_EVAL_VIEWS, _EVAL_K = 256, 20


def train(config: ConfigDict, data: str, workdir: str, model: str = "") -> None:
    """Trains, or goes on where RUN's newest checkpoint stands.

    Args:
      config: complete; what concerns the records must be what prepare had.
      data: DATA.
      workdir: RUN.
      model: the encoder to start from; "" = the one that DATA's manifest names.

    Raises:
      UserError: for what the user can mend, before RUN is touched; a loss that is not finite.
    """
    # -- data and encoder, checked against each other ----------------------------------------------------------
    manifest = shards.read_manifest(data)
    model = model or manifest["encoder"]["model"]
    folder = models.folder(model)
    architecture = models.read_config(folder)
    _check(config, data, manifest, model, folder, architecture)
    pairs = shards.Shards(Path(data).expanduser(), manifest, "train")
    total = _total_steps(config, data, len(pairs))

    # -- mesh, shape of the batches, the run's folder ----------------------------------------------------------
    mesh = meshes.make(config.mesh_data, config.mesh_fsdp)
    lengths_n2 = pairs.lengths()
    form = batches.shape(lengths_n2, config.pairs, total, config.row_tokens or config.max_tokens, mesh.size)
    params = weights.load(folder, architecture)
    about = {"model": model, "weights": weights.digest(params)}
    identity = runs.open_folder(workdir, config, about, manifest)
    graph = encoder.build(architecture, matmul_dtype=config.matmul_dtype, kernel=config.kernel, remat=config.remat)

    with runs.manager(workdir, config.keep) as checkpoints:
        start = checkpoints.latest_step() or 0
        if start >= total:
            print(f"{workdir} is finished and the same: {start} of {total} steps", flush=True)
            return

        # -- state on the mesh, from the encoder or from the newest checkpoint ---------------------------------
        state = jax.jit(lambda p: steps_.init(config, p))(params)
        shardings = meshes.state(mesh, state)
        state = jax.device_put(state, shardings)
        del params  # the copy that counts is on the mesh
        if start:
            state = runs.restore(checkpoints, start, state, shardings, identity)
        update = jax.jit(
            steps_.make(graph, config, form.segments),
            donate_argnums=0,
            out_shardings=(shardings, meshes.whole(mesh)),
        )
        _say_start(config, manifest, about, architecture, mesh, form, lengths_n2, start, total, identity)

        # -- the loop ------------------------------------------------------------------------------------------
        scores = _evaluation(Path(data).expanduser(), manifest, pairs, embed.embedder(graph, mesh))
        feed = batches.feed(pairs, range(start, total), config.pairs, form, mesh)
        save = lambda n, state: runs.save(checkpoints, n, state, identity)  # noqa: E731
        log = runs.Log(workdir, start)
        try:
            progress = Progress(log, config, lengths_n2, form.rows * form.tokens, range(start, total))
            _loop(config, update, state, feed, range(start, total), progress, scores, save)
        finally:
            log.close()
    print(f"finished {total} steps: {workdir}", flush=True)


def _loop(
    config: ConfigDict,
    update: Callable,
    state: steps_.State,
    feed: Iterator[batches.Batch],
    steps: range,
    progress: "Progress",
    scores: Callable[[dict], dict],
    save: Callable[[int, steps_.State], None],
) -> None:
    """Runs the steps.

    The order matters: a step is finished before it is scored, scored before it is saved, and saved before the
    next batch is taken, so that a checkpoint, its metrics and its place in the data belong together.
    """
    saved = time.monotonic()
    for n in range(steps.start + 1, steps.stop + 1):  # finished steps, counted from 1
        asked = time.monotonic()
        batch = next(feed)
        waited = time.monotonic() - asked
        state, metrics = update(state, batch)
        last = n == steps.stop
        score = last or (config.eval_every_steps and n % config.eval_every_steps == 0)
        minutes = (time.monotonic() - saved) / 60
        due = last or (config.save_every_steps and n % config.save_every_steps == 0)
        due = due or (config.save_every_minutes and minutes >= config.save_every_minutes)
        # One step stays in flight while the host prepares the next; its numbers come one step late.
        progress.add(n, metrics, waited)
        if score:
            progress.retire(lambda: scores(state["params"]["encoder"]))  # noqa: B023 (called at once)
        if due:
            progress.retire()
            save(n, state)
            saved = time.monotonic()
        if score or due:
            progress.restart()


class Progress:
    """Turns finished steps into lines of metrics.jsonl and of the screen.

    Args:
      log: where lines go.
      config: complete.
      lengths_n2: tokens of each record's views.
      slots: rows x tokens of a batch.
      steps: that are to run.
    """

    def __init__(self, log: runs.Log, config: ConfigDict, lengths_n2: np.ndarray, slots: int, steps: range) -> None:
        self._log, self._config, self._slots, self._steps = log, config, slots, steps
        tokens_n = lengths_n2[: steps.stop * config.pairs].sum(1)
        self._tokens = tokens_n.reshape(steps.stop, config.pairs).sum(1)
        self._pending: tuple[int, dict] | None = None
        self._paces: list[float] = []
        self.restart()

    def restart(self) -> None:
        """Starts a new interval, so that evaluation and saving count for no speed."""
        self._began, self._done, self._real, self._waited = time.monotonic(), 0, 0, 0.0

    def add(self, n: int, metrics: dict, waited: float) -> None:
        """Takes step n, not finished yet, after waiting `waited` seconds for its batch; retires the one before."""
        self.retire()
        self._pending = n, metrics
        self._waited += waited

    def retire(self, scores: Callable[[], dict[str, float]] | None = None) -> None:
        """Waits for the pending step and writes its line where one is due.

        Args:
          scores: evaluated once the step is done; its eval/… go into the line.

        Raises:
          UserError: the loss is not finite.
        """
        if self._pending is None:
            return
        (n, metrics), self._pending = self._pending, None
        values = {key: float(value) for key, value in jax.device_get(metrics).items()}
        if not math.isfinite(values["loss"]):
            raise UserError(
                f"the loss is {values['loss']} at step {n}; checkpoints hold earlier steps only; "
                f"lower --config.lr={self._config.lr} in a new --workdir"
            )
        self._done += 1
        self._real += int(self._tokens[n - 1])
        if scores or n % self._config.log_every_steps == 0:
            seconds = time.monotonic() - self._began
            self._write(n, values, seconds, scores() if scores else {})
            self.restart()

    def _write(self, n: int, values: dict, seconds: float, extra: dict) -> None:
        pairs = self._done * self._config.pairs
        line = {"step": n, **values, "pairs_per_s": pairs / seconds, "tokens_per_s": self._real / seconds}
        line |= {"fill": self._real / (self._done * self._slots), "host_wait_s": self._waited, **extra}
        self._log.write(line)
        self._paces.append(seconds / self._done)
        left = (self._steps.stop - n) * float(np.median(self._paces))
        print(
            f"step {n}/{self._steps.stop}  loss {values['loss']:.3f}  accuracy {values['accuracy']:.2f}  "
            f"{line['pairs_per_s']:.1f} pairs/s  {line['tokens_per_s']:,.0f} tokens/s  fill {line['fill']:.2f}  "
            + "".join(f"{key} {value:.3f}  " for key, value in extra.items())
            + f"{_clock(left)} left",
            flush=True,
        )


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def _check(
    config: ConfigDict, data: str, manifest: dict, model: str, folder: Any, architecture: models.EncoderConfig
) -> None:
    for key, prepared in manifest["config"].items():
        if config[key] != prepared:
            raise UserError(
                f"config.{key}={config[key]} but --data={data} was prepared with {prepared}; "
                f"use --config.{key}={prepared} or prepare again"
            )
    found = tokens.digest(models.tokenizer(folder))
    if found != manifest["encoder"]["tokenizer"]:
        raise UserError(
            f"--data={data} was spelt by the tokenizer of {manifest['encoder']['model']} "
            f"({manifest['encoder']['tokenizer'][:8]}), that of --encoder={model} is another ({found[:8]}); "
            "prepare again with this encoder"
        )
    if config.max_tokens > architecture.positions:
        raise UserError(
            f"config.max_tokens={config.max_tokens} is more than the {architecture.positions} positions of {model}"
        )


def _total_steps(config: ConfigDict, data: str, records: int) -> int:
    possible = records // config.pairs
    if not possible:
        raise UserError(
            f"config.pairs={config.pairs} is more than the {records} records of --data={data}; use fewer pairs"
        )
    if config.steps > possible:
        raise UserError(
            f"config.steps={config.steps} of {config.pairs} pairs need {config.steps * config.pairs:,} records and "
            f"--data={data} has {records:,}: use --config.steps={possible}, or prepare with more --config.epochs"
        )
    return config.steps or possible


def _evaluation(
    data: Path, manifest: dict, train_pairs: shards.Shards, vectors: Callable
) -> Callable[[dict], dict[str, float]]:
    """k-NN by source: the neighbours are views of training questions, the queries are of held-out ones."""
    if "eval" not in manifest["splits"]:
        return lambda params: {}
    held = shards.Shards(data, manifest, "eval")
    known = [train_pairs.read(i) for i in range(min(_EVAL_VIEWS, len(train_pairs)))]
    asked = [held.read(i) for i in range(min(_EVAL_VIEWS, len(held)))]
    known_n, asked_n = (np.array([p.source for p in side]) for side in (known, asked))
    k = min(_EVAL_K, len(known))

    def scores(params: dict) -> dict[str, float]:
        z_nd = vectors(params, [p.anchor for p in known + asked])
        found_n = evaluate.knn(z_nd[: len(known)], known_n, z_nd[len(known) :], k)
        return {"eval/knn": float(np.mean(found_n == asked_n)), "eval/chance": 1 / len(manifest["sources"])}

    return scores


def _say_start(
    config: ConfigDict,
    manifest: dict,
    about: dict,
    architecture: models.EncoderConfig,
    mesh: Mesh,
    form: batches.Shape,
    lengths_n2: np.ndarray,
    start: int,
    total: int,
    identity: str,
) -> None:
    """The run on one screen."""
    real = lengths_n2[: total * config.pairs].sum() / total
    lines = {
        "devices": meshes.table(mesh),
        "encoder": f"{about['model']} ({architecture.architecture}, {architecture.layers} layers of "
        f"{architecture.width}), weights {about['weights'][:8]}, {config.matmul_dtype} products, "
        f"no dropout (its config.json says {architecture.dropout:g})",
        "data": f"{len(manifest['sources'])} sources, {len(lengths_n2):,} pairs, {manifest['fingerprint'][:8]}; "
        f"share held out {manifest['holdout']['share']:g}",
        "batch": f"{config.pairs} pairs, up to {config.pairs - 1} negatives an anchor, same source: "
        f"{config.same_source}",
        "rows": f"{form.rows} x {form.tokens} tokens, {form.segments} segments at most; {real:,.0f} tokens a step, "
        f"fill {real / (form.rows * form.tokens):.2f}",
        "steps": f"{total}" + (f", going on after step {start}" if start else ""),
        "seed": f"{config.seed}, run {identity[:8]}",
    }
    for key, value in lines.items():
        print(f"{key:8s} {value}", flush=True)


if __name__ == "__main__":
    flags.DEFINE_string("data", None, "The folder that prepare wrote.", required=True)
    flags.DEFINE_string(
        "workdir", None, "The run's folder: checkpoints, metrics.jsonl, TensorBoard, config.json.", required=True
    )
    flags.DEFINE_string("encoder", "", "The encoder to start from; empty = the one that DATA was prepared for.")
    CONFIG = config_flags.DEFINE_config_file("config", None, "The run's config; the same that prepare had.")

    def _main(f: flags.FlagValues) -> None:
        train(configs.complete(CONFIG.value), f.data, f.workdir, f.encoder)

    cli.run(_main)
