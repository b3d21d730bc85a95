"""train --dry_run: what an update costs, from its compiled program alone; no weights, no records, no run's folder.

The bill is of the update. The vectors of the k-NN in the loop are another, smaller program, whose memory is free again
before the next update.
"""

import dataclasses
import importlib.metadata
import json
import math
import re
import time
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh
from ml_collections import ConfigDict

from univar_jax import config as configs
from univar_jax import files
from univar_jax.cli import UserError
from univar_jax.encoders import flops, models
from univar_jax.encoders import mesh as meshes
from univar_jax.encoders.models import EncoderConfig
from univar_jax.training import batches, collectives, loads, programs, runs, step, topology

_GIB = 2**30
# What the machine's part of a config decides of a program, beside the mesh and the rows.
_HOW = ("kernel", "spread", "remat", "rows_per_chunk", "matmul_dtype")
# What XLA says of a program that the device cannot hold: what it takes at least, and what there is.
_TOO_LARGE = re.compile(
    r"Used ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?)|\(([\d.]+[KMGT]?)\) exceeds available \w+ \(([\d.]+[KMGT]?)\)"
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def define_flags() -> None:
    """The flags of a dry run, beside those of train."""
    flags.DEFINE_boolean("dry_run", False, "Compile one update and print its bill; needs neither data nor workdir.")
    flags.DEFINE_string("bill", None, "A dry run's bill as JSON; also RUN/bill.json where --workdir is given.")
    flags.DEFINE_string("topology", None, f"Devices that are not here, for a dry run: {topology.KNOWN}.")
    flags.DEFINE_integer("rows", None, "A dry run's rows of a batch; without them or --data, the most there can be.", 1)
    flags.DEFINE_integer("segments_per_row", None, "The most views of such a row; empty = as few as hold all pairs.", 1)


def wanted(values: flags.FlagValues) -> bool:
    """Whether --dry_run was given.

    Raises:
      UserError: another flag of a dry run was given without it, or two that contradict one another.
    """
    names = ("bill", "topology", "rows", "segments_per_row")
    if not values.dry_run and (given := [name for name in names if values[name].value is not None]):
        raise UserError(f"--{given[0]} is for a dry run; add --dry_run or leave it out")
    if values.rows and values.data:
        raise UserError(f"--rows={values.rows} and --data={values.data} both say how much a batch holds; give one")
    if values.segments_per_row and not values.rows:
        raise UserError(f"--segments_per_row={values.segments_per_row} needs --rows")
    return bool(values.dry_run)


def dry_run(
    config: ConfigDict, values: flags.FlagValues, model: str, lengths_n2: np.ndarray | None, steps: int
) -> None:
    """Prints the bill and writes it where the flags say.

    Args:
      config: complete.
      values: the flags, checked by `wanted`.
      model: the encoder; only its config.json is read.
      lengths_n2: tokens of each record's views; None = no --data.
      steps: of a run over these records.

    Raises:
      UserError: for what the user can mend, before anything is compiled.
    """
    if not model:
        raise UserError("--encoder is missing, and no --data names one; give a folder with config.json, or minilm")
    outs = [files.place(values.bill, "bill")] if values.bill else []
    if values.workdir:
        if not runs.is_run(values.workdir):
            runs.check_free(files.place(values.workdir, "workdir"))
        outs.append(files.place(values.workdir, "workdir") / runs.BILL)
    # First of all that has to do with jax: it says which devices this process computes on.
    devices = topology.devices(values.topology) if values.topology else None
    architecture = models.read_config(models.folder(model))
    programs.check(config, architecture, model)
    mesh = meshes.make(config.mesh_data, config.mesh_fsdp, devices)
    layout = programs.layout(config, mesh)
    if lengths_n2 is not None:
        load = loads.from_records(config, layout, lengths_n2, steps)
    elif values.rows:
        load = loads.from_rows(config, layout, values.rows, values.segments_per_row or 0)
    else:
        load = loads.upper_bound(config, layout)
    if not devices:
        programs.cache()
    bill = make(config, architecture, mesh, load, values.topology or "")
    say(bill, config)
    for out in outs:
        write(bill, out)
        print(f"bill     {out}", flush=True)


def make(config: ConfigDict, architecture: EncoderConfig, mesh: Mesh, load: loads.Load, slice_: str = "") -> dict:
    """Compiles the update and counts.

    Args:
      config: complete.
      architecture: the encoder's.
      mesh: its devices may be ones that are only described.
      load: the batch.
      slice_: the name of such devices; "" where they are here.

    Returns:
      Plain values for a JSON file, and "seconds" of the compilation, which is for the screen alone.
    """
    state = programs.abstract_state(config, architecture)
    began = time.monotonic()
    lowered = programs.lower(programs.graph(config, architecture, mesh), config, load.shape, mesh, state)
    compiled, over = _compile(lowered)
    parts = _parts(state, batches.abstract(config.pairs, load.shape, mesh), mesh, compiled)
    kind = mesh.devices.flat[0].device_kind
    operations = {key: float(value.mean()) for key, value in flops.step(architecture, config, load.lengths_sv).items()}
    return {
        "config": configs.digest(dict(config)),
        "encoder": {
            **{"architecture": architecture.architecture, "layers": architecture.layers, "width": architecture.width},
            "parameters": sum(math.prod(x.shape) for x in jax.tree.leaves(state["params"]["encoder"])),
        },
        "how": {key: config[key] for key in _HOW},
        "pairs": config.pairs,
        "rows": [dataclasses.asdict(group) for group in load.shape],
        "lengths": load.source,
        "tokens": {"slots": sum(group.slots for group in load.shape), "real": load.real},
        "flops": operations | {"total": sum(operations.values())},
        "bytes": parts,
        **_fit(kind, parts, over, mesh, slice_),
        "collectives": collectives.count(compiled.as_text()) if compiled else None,
        "mesh": dict(mesh.shape),
        "devices": {"count": mesh.size, "kind": kind},
        "topology": slice_,
        "versions": _versions(kind, slice_),
        "seconds": time.monotonic() - began,
    }


def _compile(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled | None, list[int] | None]:
    """The program; or what it would take and what there is, in bytes, where the device cannot hold it."""
    try:
        return lowered.compile(), None
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) or not (found := _TOO_LARGE.search(str(error))):
            raise
        words = filter(None, found.groups())
        return None, [int(float(word.rstrip("KMGT")) * _UNITS.get(word[-1], 1)) for word in words]


def _parts(state: step.State, batch: batches.Batch, mesh: Mesh, compiled: Any) -> dict[str, int | None]:
    """Bytes on one device; what only the compiled program knows is None where there is none."""
    shardings = meshes.state(mesh, state)
    known = {
        "parameters": _shares(state["params"], shardings["params"]),
        "moments": _shares(state["opt"], shardings["opt"]),
        "batch": _shares(batch, jax.tree.map(lambda x: x.sharding, batch)),
    }
    if compiled is None:
        return known | dict.fromkeys(("padding", "temporaries", "output", "program", "total"))
    found = compiled.memory_analysis()
    known |= {
        # A TPU lays arrays out in tiles; and an array that the program does not read is none of its arguments.
        "padding": max(0, found.argument_size_in_bytes - sum(known.values())),
        "temporaries": found.temp_size_in_bytes,
        "output": found.output_size_in_bytes - found.alias_size_in_bytes,  # the new state takes the old one's place
        "program": found.generated_code_size_in_bytes,
    }
    return known | {"total": sum(known.values())}


def _shares(tree: Any, shardings: Any) -> int:
    """Bytes of one device's share of all arrays."""
    sizes = jax.tree.map(lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, tree, shardings)
    return sum(jax.tree.leaves(sizes))


def _fit(kind: str, parts: dict, over: list[int] | None, mesh: Mesh, slice_: str) -> dict:
    """memory, usable, fits and share; memory is not known of a CPU."""
    known = flops.device(kind)
    memory, usable = (known.memory, known.usable) if known else (None, None)
    if known and not slice_ and (stats := mesh.devices.flat[0].memory_stats()):
        usable = stats.get("bytes_limit", usable)
    if over:
        parts["total"], usable = over
    share = parts["total"] / usable if usable else None
    return {"memory": memory, "usable": usable, "fits": None if share is None else share <= 1, "share": share}


def _versions(kind: str, slice_: str) -> dict[str, str]:
    names = ["jax", "jaxlib", "flax"]
    if slice_:
        names.append("libtpu" if kind.startswith("TPU") else "jax-cuda12-pjrt")
    return {name: importlib.metadata.version(name) for name in names}


def say(bill: dict, config: ConfigDict) -> None:
    """The bill on one screen."""
    shape, tokens, work, parts = bill["encoder"], bill["tokens"], bill["flops"], bill["bytes"]
    count, kind = bill["devices"]["count"], bill["devices"]["kind"]
    rows = " + ".join(f"{g['rows']} x {g['tokens']} tokens, up to {g['segments']} view(s) each" for g in bill["rows"])
    real = "not known" if tokens["real"] is None else f"{tokens['real']:,.0f}"
    peak = flops.peak([kind] * count, config.matmul_dtype)
    sent = [
        f"{name} {x['count']} ({x['in_loops']} in loops, {_size(x['bytes'])})"
        for name, x in (bill["collectives"] or {}).items()
    ]
    sent = sent or ["nothing" if bill["fits"] is not False else "not known"]
    lines = {
        "devices": f"{count} x {kind}{' that are not here: ' if bill['topology'] else ''}{bill['topology']}, "
        f"mesh data {bill['mesh']['data']} x fsdp {bill['mesh']['fsdp']}",
        "encoder": f"{shape['architecture']}, {shape['layers']} layers of {shape['width']}, "
        f"{shape['parameters']:,} parameters",
        "how": ", ".join(f"{key} {value}" for key, value in bill["how"].items()),
        "batch": f"{bill['pairs']} pairs in {rows}; {bill['lengths']}",
        "tokens": f"{tokens['slots']:,} slots a step, real ones {real}",
        "flops": f"{work['total']:.3g} a step: linear {work['linear']:.3g}, attention inside views "
        f"{work['attention']:.3g}, loss {work['loss']:.3g}"
        + (f"; {work['total'] / peak:.3g} s at the {config.matmul_dtype} peak" if peak else ""),
        "bytes": "of a device: " + ", ".join(f"{k} {_size(v)}" for k, v in parts.items() if v is not None),
        "memory": _verdict(bill, config),
        "sent": f"{', '.join(sent)}; one in a loop counts once",
        "compiler": f"{bill['seconds']:.1f} s of "
        + ", ".join(f"{name} {version}" for name, version in bill["versions"].items()),
        "config": bill["config"][:8],
    }
    for key, value in lines.items():
        print(f"{key:8s} {value}", flush=True)


def _verdict(bill: dict, config: ConfigDict) -> str:
    if bill["share"] is None:
        return f"of a {bill['devices']['kind']} is not known"
    used = f"{bill['bytes']['total'] / _GIB:.2f} of {bill['usable'] / _GIB:.2f} GiB, {bill['share']:.0%}"
    if bill["fits"]:
        return f"fits: {used}"
    devices = bill["devices"]["count"]
    cures = {
        "--config.matmul_dtype=bfloat16": config.matmul_dtype == "float32",
        "--config.remat=full": config.remat == "none",
        f"--config.rows_per_chunk={devices}": config.rows_per_chunk != devices,
        f"--config.mesh_fsdp={devices}": config.mesh_fsdp == 1 < devices,
        "shorter rows": True,
        "more devices": True,
    }
    return f"does NOT fit: {used}; cures: {', '.join(cure for cure, open_ in cures.items() if open_)}"


def _size(size: int) -> str:
    return f"{size / _GIB:.2f} GiB" if size >= _GIB / 100 else f"{size / 2**20:.2f} MiB"


def write(bill: dict, path: files.Place) -> None:
    """The bill as JSON; equal bills are equal bytes."""
    kept = {key: value for key, value in bill.items() if key != "seconds"}
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, (json.dumps(kept, indent=1) + "\n").encode())
