"""The update as compiled programs, one for each shape of a run, all before its first step."""

import ctypes
import functools
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Callable
from pathlib import Path

import jax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from univar_jax.cli import UserError
from univar_jax.encoders import attention, encoder, mesh, packing
from univar_jax.encoders.models import EncoderConfig
from univar_jax.training import batches, step


def cache() -> None:
    """Programs are kept on disk, so that a second start compiles nothing; JAX_COMPILATION_CACHE_DIR says where."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "univar_jax"
    jax.config.update("jax_compilation_cache_dir", str(Path(os.environ.get("UNIVAR_CACHE") or home) / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def keep_memory() -> None:
    """Makes glibc keep what a CPU program frees; to be called before jax starts its devices.

    XLA takes its temporaries anew in each step, and the kernel would clear each of their pages again: a tenth of a
    step's time, and more. What the process once took it holds until it ends. Nothing where an accelerator computes,
    or where the C library is another one.
    """
    accelerated = importlib.metadata.entry_points(group="jax_plugins") or importlib.util.find_spec("libtpu")
    if platform.libc_ver()[0] != "glibc" or (accelerated and jax.config.jax_platforms != "cpu"):
        return
    arena_max, mmap_max, trim_threshold = -8, -4, -1  # mallopt(3)
    for option, value in ((arena_max, 1), (mmap_max, 0), (trim_threshold, -1)):
        ctypes.CDLL(None).mallopt(option, value)


def check(config: ConfigDict, architecture: EncoderConfig, model: str) -> None:
    """Finds that the encoder can do what the config asks.

    Args:
      config: complete.
      architecture: the encoder's.
      model: its name in errors.

    Raises:
      UserError: views longer than its positions, a matryoshka size above its width, or an attention kernel that
        cannot run here.
    """
    if config.max_tokens > architecture.positions:
        raise UserError(
            f"config.max_tokens={config.max_tokens} is more than the {architecture.positions} positions of {model}"
        )
    if max(config.matryoshka_dims, default=0) > architecture.width:
        raise UserError(
            f"config.matryoshka_dims={config.matryoshka_dims} has a size above the {architecture.width} of {model}"
        )
    attention.check(config.kernel, architecture, config.matmul_dtype, config.row_tokens or config.max_tokens)


def graph(config: ConfigDict, architecture: EncoderConfig, devices: Mesh) -> nnx.GraphDef:
    """The encoder as the config wants it computed on a mesh; what `lower` takes."""
    how = {"matmul_dtype": config.matmul_dtype, "kernel": config.kernel, "remat": config.remat}
    return encoder.build(architecture, **how, mesh=devices)


def layout(config: ConfigDict, devices: Mesh) -> packing.Layout:
    """How rows are made for a config on a mesh.

    Raises:
      UserError: rows_per_chunk, or the pairs of a spread loss, do not divide over the devices.
    """
    over = config.pairs % devices.size
    if config.spread != "dense" and over:
        raise UserError(
            f"config.pairs={config.pairs} does not divide over {devices.size} devices; "
            f"use --config.pairs={config.pairs - over + devices.size} or --config.spread=dense"
        )
    chunk, count = config.rows_per_chunk, devices.size
    if chunk % count:
        raise UserError(
            f"config.rows_per_chunk={chunk} does not divide over {count} devices; "
            f"use --config.rows_per_chunk={chunk + -chunk % count}"
        )
    return packing.Layout(config.row_tokens or config.max_tokens, chunk or count, config.short_row_tokens)


def lower(
    graph: nnx.GraphDef, config: ConfigDict, shape: packing.Shape, devices: Mesh, state: step.State
) -> jax.stages.Lowered:
    """The update for one shape, not compiled yet: (state, batch) → (state, metrics), the old state given up.

    Args:
      graph: the encoder's, from `graph`.
      config: complete.
      shape: of the batch.
      devices: the mesh; its devices may be ones that are only described.
      state: arrays, or jax.ShapeDtypeStruct as `abstract_state` gives them.
    """
    shardings = mesh.state(devices, state)
    update = jax.jit(
        step.make(graph, config, shape, devices), donate_argnums=0, out_shardings=(shardings, mesh.whole(devices))
    )
    given = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)
    return update.lower(given, batches.abstract(config.pairs, shape, devices))


def abstract_state(config: ConfigDict, architecture: EncoderConfig) -> step.State:
    """The state of jax.ShapeDtypeStruct: no weights are read, no memory is taken."""
    return jax.eval_shape(functools.partial(step.init, config), encoder.abstract_params(architecture))


def compile_all(
    graph: nnx.GraphDef, config: ConfigDict, plan: packing.Plan, devices: Mesh, state: step.State
) -> list[Callable]:
    """One program for each of the plan's shapes, in their order; args as `lower`."""
    return [lower(graph, config, shape, devices, state).compile() for shape in plan.shapes]
