"""A run from its inputs to its end: what it starts from, checked; state and programs; then the loop."""

import dataclasses
import time
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import flags
from jax.sharding import Mesh
from ml_collections import ConfigDict, config_flags

from univar_jax import cli, files
from univar_jax import config as configs
from univar_jax.cli import UserError
from univar_jax.dataset import shards
from univar_jax.encoders import encode, flops, packing, weights
from univar_jax.encoders import mesh as meshes
from univar_jax.statistics import evaluate
from univar_jax.training import batches, bill, checkpoints, hosts, logs, loop, patience, programs, runs, status
from univar_jax.training import inputs as inputs_
from univar_jax.training import step as steps_
from univar_jax.training.inputs import Inputs
from univar_jax.training.progress import Progress

# Views on either side of the in-loop k-NN: enough to see a trend, few enough to cost a few steps.
_EVAL_VIEWS, _EVAL_K = 256, 20


def train(config: ConfigDict, data: str, workdir: str, model: str = "", profile: range = range(0)) -> None:
    """Trains, or goes on where RUN's newest checkpoint stands.

    Args:
      config: complete; what concerns the records must be what prepare had.
      data: DATA.
      workdir: RUN.
      model: the encoder to start from; "" = the one that DATA's manifest names.
      profile: steps, counted from 1, whose trace goes to RUN/profile.

    Raises:
      UserError: for what the user can mend, before RUN is touched; a loss that is not finite.
    """
    inputs = inputs_.open_all(config, data, model)
    manifest, pairs, total = inputs.manifest, inputs.pairs, inputs.total

    # -- mesh, shapes of the batches, the run's folder ---------------------------------------------------------
    mesh = meshes.make(config.mesh_data, config.mesh_fsdp)
    plan = packing.plan(pairs.lengths(), config.pairs, total, programs.layout(config, mesh))
    params = weights.load(inputs.folder, inputs.encoder)
    digest = weights.digest(params)
    about = runs.check_folder(workdir, config, {"model": inputs.model, "weights": digest}, manifest)
    about["environment"] = status.environment(mesh)
    hosts.meet("start")  # all have checked RUN: from here on one writes it
    if hosts.speaks() and not runs.is_run(workdir):
        runs.describe(workdir, about)  # first of all: a RUN without it is nobody's
    with hosts.Stop() as stop, checkpoints.manager(workdir, config.keep) as store:
        start = store.latest_step() or 0
        if start >= total:
            hosts.say(f"{workdir} is finished and the same: {start} of {total} steps")
            return
        if patience.ended(workdir, start, total, config.patience):
            return
        if hosts.speaks():
            runs.describe(workdir, about)  # again: the machine's keys may be others now
        setting = Setting(workdir, mesh, plan, store, start, about["identity"])
        _say_start(config, inputs, setting, digest)
        ended = _run(config, inputs, setting, params, profile, stop)
        done = ended == total or patience.ended(workdir, ended, total, config.patience)
        if ended == total:
            hosts.say(f"finished {total} steps: {workdir}")
        elif not done:
            hosts.say(f"SIGTERM: saved after step {ended} of {total}; the same command goes on from there")
        status.tell(workdir, total, "finished" if done else "stopped by SIGTERM")


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where a run runs and stands.

    Attributes:
      workdir: RUN.
      mesh: of all processes' devices.
      plan: the shape of each step's batch.
      store: RUN's checkpoints.
      start: finished steps.
      identity: sha256 of what makes the run what it is.
    """

    workdir: str
    mesh: Mesh
    plan: packing.Plan
    store: ocp.CheckpointManager
    start: int
    identity: str


def _run(config: ConfigDict, inputs: Inputs, setting: Setting, params: dict, profile: range, stop: hosts.Stop) -> int:
    """State on the mesh, programs, and the loop; steps that are finished at its end."""
    mesh, plan, store, start, identity = setting.mesh, setting.plan, setting.store, setting.start, setting.identity
    tell = lambda doing: status.tell(setting.workdir, inputs.total, doing)  # noqa: E731
    tell("restoring" if start else "preparing the state")
    programs.cache()
    shardings = meshes.state(mesh, jax.eval_shape(lambda p: steps_.init(config, p), params))
    state = jax.jit(lambda p: steps_.init(config, p), out_shardings=shardings)(params)
    if start:
        state = checkpoints.restore(store, start, state, shardings, identity)
    tell("compiling")
    began, graph = time.monotonic(), programs.graph(config, inputs.encoder, mesh)
    updates = programs.compile_all(graph, config, plan, mesh, state)
    hosts.say(f"compiled {len(updates)} program(s) in {time.monotonic() - began:.1f} s")
    hosts.meet("first step")

    steps, lengths_n2 = range(start, inputs.total), inputs.pairs.lengths()
    log = logs.Log(setting.workdir, start)

    def save(n: int, state: steps_.State, scores: dict[str, float]) -> None:
        log.sync()  # first: a checkpoint whose steps have no line in metrics.jsonl would never get them
        checkpoints.save(store, n, state, identity, scores)

    try:
        kinds = [device.device_kind for device in mesh.devices.flat]
        ideal_n = flops.ideal_seconds(inputs.encoder, config, lengths_n2, kinds)
        progress = Progress(log, config, lengths_n2, plan.slots(), steps, ideal_n)
        calls = loop.Run(
            update=lambda n, state, batch: updates[plan.shape_n[n]](state, batch),
            scores=_evaluation(inputs, encode.embedder(graph, mesh)),
            save=save,
            tell=tell,
            stop=stop.wanted,
            profile=profile,
            trace=files.place(setting.workdir, "workdir") / "profile",
            past=patience.known(setting.workdir, start),
        )
        feed = batches.feed(inputs.pairs, steps, config.pairs, plan, mesh)
        ended = loop.run(config, calls, state, feed, steps, progress)
        checkpoints.wait(store)
        return ended
    finally:
        log.close()


def _evaluation(inputs: Inputs, vectors: Callable) -> Callable[[dict], dict[str, float]]:
    """k-NN by source: the neighbours are views of training questions, the queries are of held-out ones."""
    if "eval" not in inputs.manifest["splits"]:
        return lambda params: {}
    held = shards.Shards(inputs.data, inputs.manifest, "eval")
    known = [inputs.pairs.read(i) for i in range(min(_EVAL_VIEWS, len(inputs.pairs)))]
    asked = [held.read(i) for i in range(min(_EVAL_VIEWS, len(held)))]
    known_n, asked_n = (np.array([p.source for p in side]) for side in (known, asked))
    k = min(_EVAL_K, len(known))

    def scores(params: dict) -> dict[str, float]:
        z_nd = vectors(params, [p.anchor for p in known + asked])
        found_n = evaluate.knn(z_nd[: len(known)], known_n, z_nd[len(known) :], k)
        return {"eval/knn": float(np.mean(found_n == asked_n)), "eval/chance": 1 / len(held.sources)}

    return scores


def _profiled(words: str) -> range:
    """FIRST:LAST as steps."""
    if not words:
        return range(0)
    first, colon, last = words.partition(":")
    if not (colon and first.isdigit() and last.isdigit() and 0 < int(first) <= int(last)):
        raise UserError(f"--profile_steps={words} is not FIRST:LAST, two steps counted from 1, such as 10:15")
    return range(int(first), int(last) + 1)


def _say_start(config: ConfigDict, inputs: Inputs, setting: Setting, digest: str) -> None:
    """The run on one screen."""
    real = inputs.pairs.lengths()[: inputs.total * config.pairs].sum() / inputs.total
    shape, manifest, mesh, plan, start = inputs.encoder, inputs.manifest, setting.mesh, setting.plan, setting.start
    rows = [" + ".join(f"{g.rows} x {g.tokens} tokens" for g in groups) for groups in plan.shapes]
    times = np.bincount(plan.shape_n, minlength=len(rows))
    lines = {
        "devices": meshes.table(mesh),
        "encoder": f"{inputs.model} ({shape.architecture}, {shape.layers} layers of {shape.width}), weights "
        f"{digest[:8]}, {config.matmul_dtype} products, {config.kernel} attention, no dropout (its config.json says "
        f"{shape.dropout:g})",
        "carried": f"{', '.join(weights.carried(inputs.folder, shape)) or 'none'} (not trained; export puts them back)",
        "data": f"{len(manifest['sources'])} sources, {len(inputs.pairs):,} pairs, {manifest['fingerprint'][:8]}; "
        f"share held out {manifest['holdout']['share']:g}",
        "batch": f"{config.pairs} pairs, up to {config.pairs - 1} negatives an anchor, same source: "
        f"{config.same_source}, loss {config.spread}"
        + (f"; sizes {', '.join(map(str, config.matryoshka_dims))} too" if config.matryoshka_dims else ""),
        "rows": "; ".join(f"{row} in {n} steps" for row, n in zip(rows, times, strict=True)),
        "fill": f"{plan.fill:.3f}, {plan.ceiling:.3f} if each step had its own count; {real:,.0f} tokens a step, "
        f"{max(g.segments for groups in plan.shapes for g in groups)} views a row at most",
        "steps": f"{inputs.total}" + (f", going on after step {start}" if start else ""),
        "seed": f"{config.seed}, run {setting.identity[:8]}",
    }
    for key, value in lines.items():
        hosts.say(f"{key:8s} {value}")


if __name__ == "__main__":
    flags.DEFINE_string("data", None, "The folder that prepare wrote.")
    flags.DEFINE_string("workdir", None, "The run's folder: checkpoints, metrics.jsonl, TensorBoard, config.json.")
    flags.DEFINE_string("encoder", "", "The encoder to start from; empty = the one that DATA was prepared for.")
    CONFIG = config_flags.DEFINE_config_file("config", None, "The run's config; the same that prepare had.")
    flags.DEFINE_boolean("status", False, "Only say what the run of --workdir is at.")
    flags.DEFINE_string("profile_steps", "", "FIRST:LAST, steps whose trace goes to RUN/profile, for TensorBoard.")
    hosts.define_flags()
    bill.define_flags()

    def _main(f: flags.FlagValues) -> None:
        if f.status:
            cli.require(f, "workdir")
            print(status.show(f.workdir))
            return
        programs.keep_memory()
        hosts.join(f.coordinator, f.num_processes, f.process_id)
        config = configs.complete(CONFIG.value)
        if bill.wanted(f):
            manifest, pairs, total = inputs_.records(config, f.data) if f.data else ({}, None, 0)
            model = f.encoder or (manifest["encoder"]["model"] if manifest else "")
            bill.dry_run(config, f, model, pairs.lengths() if pairs else None, total)
        else:
            cli.require(f, "data", "workdir")
            train(config, f.data, f.workdir, f.encoder, _profiled(f.profile_steps))
            hosts.hear_no_more()

    cli.run(_main)
