"""Devices that are not here, described well enough for XLA to compile for them: TPU slices and NVIDIA GPUs."""

import math
import os
import re

import jax
from jax.experimental import topologies

from univar_jax.cli import UserError, one_line

# Name → numbers of a slice's shape.
_TPUS = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2}
KNOWN = "v4:AxBxC, v5e:AxB, v5p:AxBxC, v6e:AxB, a100:N, h100:N or h200:N, for example v5e:4x4"

# libtpu may be loaded where another process has it, asks no metadata server, which only Google's machines have and
# others wait for, and keeps to itself that it found no TPU; of which type it believes to be says nothing of a slice.
_QUIET = {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-8"}
_QUIET |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3"}

# What XLA asks of a GPU: name, compute capability, cores, their clock, bytes of shared memory of a block and a core,
# of the second cache and of the memory, and its bytes a second (NVIDIA's data sheets and tuning guides).
_GPUS = {
    "a100": ("NVIDIA A100-SXM4-80GB", "major: 8", 108, 64, 1.41, 166912, 167936, 40 * 2**20, 80, 2039),
    "h100": ("NVIDIA H100 80GB HBM3", "major: 9", 132, 128, 1.98, 232448, 233472, 50 * 2**20, 80, 3350),
    "h200": ("NVIDIA H200", "major: 9", 132, 128, 1.98, 232448, 233472, 50 * 2**20, 141, 4800),
}
_GPU = """
gpu_device_info {{
  name: "{0}" device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ {1} {accelerated} }}
  core_count: {2} fpus_per_core: {3} clock_rate_ghz: {4}
  shared_memory_per_block: 49152 shared_memory_per_block_optin: {5} shared_memory_per_core: {6}
  l2_cache_size: {7} device_memory_size: {8}000000000 memory_bandwidth: {9}000000000 device_address_bits: 64
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  driver_version: "12.8.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0"
}}
platform_name: "CUDA" device_description_str: "{0}"
dnn_version_info {{ major: 9 minor: 10 }}
"""


def devices(name: str) -> list[jax.Device]:
    """The devices of a slice or host by its name, to be compiled for and never run on.

    This process then computes on the CPU, whatever it has; call it before the first array.

    Raises:
      UserError: an unknown name or shape, or the compiler is not installed.
    """
    kind, _, shape = name.partition(":")
    jax.config.update("jax_platforms", "cpu")  # the compiler is loaded without the devices that it drives
    if kind in _TPUS and re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape) and shape.count("x") == _TPUS[kind] - 1:
        return _tpus(kind, name)
    if kind in _GPUS and re.fullmatch(r"[1-9]\d*", shape):
        return _gpus(name, kind, int(shape))
    raise UserError(f"--topology={name} is not known; give {KNOWN}")


def _tpus(kind: str, name: str) -> list[jax.Device]:
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    # One device a chip, as v4's two cores are used; a host of one chip must be asked for.
    how = {"chip_config_name": "megacore"} if kind == "v4" else {}
    if math.prod(map(int, name.partition(":")[2].split("x"))) == 1:
        how["chips_per_host_bounds"] = [1, 1, 1]
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **how).devices)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--topology={name}: {one_line(error)}; give {KNOWN}") from error
    except RuntimeError as error:  # jax found no libtpu
        raise UserError(
            f"--topology={name} needs TPU's compiler: pip install libtpu requests, or the extra [aot]"
        ) from (error)


def _gpus(name: str, kind: str, count: int) -> list[jax.Device]:
    accelerated = "feature_extension: ACCELERATED_FEATURES" if kind != "a100" else ""
    config = _GPU.format(*_GPUS[kind], accelerated=accelerated)
    try:
        found = topologies.get_topology_desc(platform="cuda", target_config=config, topology=f"1x1x{count}")
    except (NotImplementedError, jax.errors.JaxRuntimeError) as error:
        raise UserError(
            f"--topology={name} needs CUDA's compiler ({one_line(error)[:80]}): "
            "pip install --no-deps jax-cuda12-plugin jax-cuda12-pjrt of jax's own version"
        ) from error
    return list(found.devices)
