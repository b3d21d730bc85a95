"""A run from its inputs to its end: what it starts from, checked; state and programs; then the loop."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import flags
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict, config_flags

from univar_jax import (
    batches,
    bill,
    cli,
    encode,
    evaluate,
    files,
    flops,
    hosts,
    logs,
    loop,
    models,
    packing,
    patience,
    programs,
    runs,
    shards,
    status,
    tokens,
    weights,
)
from univar_jax import config as configs
from univar_jax import mesh as meshes
from univar_jax import step as steps_
from univar_jax.cli import UserError
from univar_jax.progress import Progress

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
    inputs = _open(config, data, model)
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
    with runs.manager(workdir, config.keep) as checkpoints, hosts.Stop() as stop:
        start = checkpoints.latest_step() or 0
        if start >= total:
            hosts.say(f"{workdir} is finished and the same: {start} of {total} steps")
            return
        if patience.ended(workdir, start, total, config.patience):
            return
        if hosts.speaks():
            runs.describe(workdir, about)  # again: the machine's keys may be others now
        _say_start(config, inputs, digest, mesh, plan, start, about["identity"])
        ended = _run(config, inputs, workdir, mesh, plan, params, checkpoints, start, about["identity"], profile, stop)
    done = ended == total or patience.ended(workdir, ended, total, config.patience)
    if not done:
        hosts.say(f"SIGTERM: saved after step {ended} of {total}; the same command goes on from there")
    elif ended == total:
        hosts.say(f"finished {total} steps: {workdir}")
    status.tell(workdir, total, "finished" if done else "stopped by SIGTERM")


def _run(
    config: ConfigDict,
    inputs: "Inputs",
    workdir: str,
    mesh: Mesh,
    plan: packing.Plan,
    params: dict,
    checkpoints: ocp.CheckpointManager,
    start: int,
    identity: str,
    profile: range,
    stop: hosts.Stop,
) -> int:
    """State on the mesh, programs, and the loop from `start`; steps that are finished at its end."""
    tell = lambda doing: status.tell(workdir, inputs.total, doing)  # noqa: E731
    tell("restoring" if start else "preparing the state")
    programs.cache()
    shardings = meshes.state(mesh, jax.eval_shape(lambda p: steps_.init(config, p), params))
    state = jax.jit(lambda p: steps_.init(config, p), out_shardings=shardings)(params)
    del params  # the copy that counts is on the mesh
    if start:
        state = runs.restore(checkpoints, start, state, shardings, identity)
    tell("compiling")
    began, graph = time.monotonic(), programs.graph(config, inputs.encoder, mesh)
    updates = programs.compile_all(graph, config, plan, mesh, state)
    hosts.say(f"compiled {len(updates)} program(s) in {time.monotonic() - began:.1f} s")
    hosts.meet("first step")

    steps, lengths_n2 = range(start, inputs.total), inputs.pairs.lengths()
    log = logs.Log(workdir, start)
    try:
        kinds = [device.device_kind for device in mesh.devices.flat]
        ideal_n = flops.ideal_seconds(inputs.encoder, config, lengths_n2, kinds)
        progress = Progress(log, config, lengths_n2, plan.slots(), steps, ideal_n)
        calls = loop.Run(
            update=lambda n, state, batch: updates[plan.shape_n[n]](state, batch),
            scores=_evaluation(inputs, encode.embedder(graph, mesh)),
            save=lambda n, state, scores: runs.save(checkpoints, n, state, identity, scores),
            tell=tell,
            stop=stop.wanted,
            profile=profile,
            trace=files.local(workdir, "workdir") / "profile",
            past=patience.known(workdir, start),
        )
        feed = batches.feed(inputs.pairs, steps, config.pairs, plan, mesh)
        ended = loop.run(config, calls, state, feed, steps, progress)
        runs.wait(checkpoints)
        return ended
    finally:
        log.close()


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a run starts from, checked against one another.

    Attributes:
      data: DATA.
      manifest: its manifest.
      pairs: its training records.
      total: steps of the run.
      model: the word MODEL.
      folder: the encoder's.
      encoder: its config.
    """

    data: Path
    manifest: dict
    pairs: shards.Shards
    total: int
    model: str
    folder: epath.Path
    encoder: models.EncoderConfig


def _records(config: ConfigDict, data: str) -> tuple[dict, shards.Shards, int]:
    """DATA's manifest, its training records and the steps that they are to give."""
    manifest = shards.read_manifest(data)
    for key, prepared in manifest["config"].items():
        if config[key] != prepared:
            raise UserError(
                f"config.{key}={config[key]} but --data={data} was prepared with {prepared}; "
                f"use --config.{key}={prepared} or prepare again"
            )
    pairs = shards.Shards(files.local(data, "data"), manifest, "train")
    return manifest, pairs, _total_steps(config, data, len(pairs))


def _open(config: ConfigDict, data: str, model: str) -> Inputs:
    manifest, pairs, total = _records(config, data)
    model = model or manifest["encoder"]["model"]
    folder = models.folder(model)
    found = tokens.digest(models.tokenizer(folder))
    if found != manifest["encoder"]["tokenizer"]:
        raise UserError(
            f"--data={data} was spelt by the tokenizer of {manifest['encoder']['model']} "
            f"({manifest['encoder']['tokenizer'][:8]}), that of --encoder={model} is another ({found[:8]}); "
            "prepare again with this encoder"
        )
    architecture = models.read_config(folder)
    programs.check(config, architecture, model)
    return Inputs(files.local(data, "data"), manifest, pairs, total, model, folder, architecture)


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


def _say_start(
    config: ConfigDict, inputs: Inputs, digest: str, mesh: Mesh, plan: packing.Plan, start: int, identity: str
) -> None:
    """The run on one screen."""
    real = inputs.pairs.lengths()[: inputs.total * config.pairs].sum() / inputs.total
    shape, manifest = inputs.encoder, inputs.manifest
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
        "seed": f"{config.seed}, run {identity[:8]}",
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
            manifest, pairs, total = _records(config, f.data) if f.data else ({}, None, 0)
            model = f.encoder or (manifest["encoder"]["model"] if manifest else "")
            bill.dry_run(config, f, model, pairs.lengths() if pairs else None, total)
        else:
            cli.require(f, "data", "workdir")
            train(config, f.data, f.workdir, f.encoder, _profiled(f.profile_steps))

    cli.run(_main)
