"""The model's floating-point operations by formula, and what known devices can do. No jax.

Counted are the matrix products that the model asks for, a multiplication and an addition as two operations: those of
the linear maps for each real token, those of attention for each pair of tokens that see one another, and those of the
loss; a backward pass is twice its forward pass. Not counted is what a program does beyond: padding, scores across
segments, what remat or chunks compute again; nor norms, activations, lookups and the optimiser, which are no products.
So the share of the peak that `ideal_seconds` gives, MFU, is of useful work, and equal for equal records however they
are packed. XLA's own count would not do: it counts the body of a loop over layers once.

Peaks are the vendors' dense figures (half of what a sheet gives "with sparsity"):
  TPU: cloud.google.com/tpu/docs/v4, …/v5e, …/v5p, …/v6e ("peak compute per chip (bf16)", "HBM capacity").
  NVIDIA: the data sheets of A100 (us-nvidia-1758950), H100 (2430615) and H200 (3002446).
float32 has a peak on GPUs only, without TF32, which the products here do not use; a TPU's is not published.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from univar_jax.encoders.models import EncoderConfig

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Device:
    """One device as jax sees it.

    Attributes:
      memory: bytes.
      usable: bytes that a program may take. On TPUs what XLA names when one takes more; on GPUs the three quarters
        that JAX sets apart unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
      bfloat16: dense products, FLOP/s.
      float32: the same; None where nobody says.
    """

    memory: int
    usable: int
    bfloat16: float
    float32: float | None = None


def _tpu(gib: int, usable: float, bfloat16: float) -> Device:
    return Device(gib * _GIB, int(usable * _GIB), bfloat16)


def _gpu(gb: int, bfloat16: float, float32: float) -> Device:
    return Device(gb * 10**9, gb * 10**9 * 3 // 4, bfloat16, float32)


# By how jax's device_kind begins, the longer beginning first.
DEVICES = {
    "TPU v4": _tpu(32, 30.75, 275e12),
    "TPU v5 lite": _tpu(16, 15.75, 197e12),
    "TPU v5e": _tpu(16, 15.75, 197e12),
    "TPU v5": _tpu(95, 95.74, 459e12),  # v5p; Google's 95 is rounded
    "TPU v6": _tpu(32, 31.25, 918e12),
    "NVIDIA A100-SXM4-40GB": _gpu(40, 312e12, 19.5e12),
    "NVIDIA A100-PCIE-40GB": _gpu(40, 312e12, 19.5e12),
    "NVIDIA A100": _gpu(80, 312e12, 19.5e12),
    "NVIDIA H100 PCIe": _gpu(80, 756e12, 51e12),
    "NVIDIA H100 NVL": _gpu(94, 835e12, 60e12),
    "NVIDIA H100": _gpu(80, 989e12, 67e12),
    "NVIDIA H200 NVL": _gpu(141, 835e12, 60e12),
    "NVIDIA H200": _gpu(141, 989e12, 67e12),
}


def device(kind: str) -> Device | None:
    """What is known of a device by jax's device_kind; None where nothing is, as of a CPU."""
    return next((known for start, known in DEVICES.items() if kind.startswith(start)), None)


def peak(kinds: Sequence[str], matmul_dtype: str) -> float | None:
    """FLOP/s of all devices together.

    Args:
      kinds: the device_kind of each.
      matmul_dtype: bfloat16 or float32.

    Returns:
      The sum of their peaks; None where one has none that is known.
    """
    peaks = [getattr(device(kind), matmul_dtype, None) for kind in kinds]
    return None if None in peaks else sum(peaks)


def step(encoder: EncoderConfig, config: ConfigDict, lengths_sv: np.ndarray) -> dict[str, np.ndarray]:
    """Floating-point operations of updates, forward and backward.

    Args:
      encoder: the architecture.
      config: complete.
      lengths_sv: tokens of each view of each step.

    Returns:
      linear, attention and loss (6 · pairs² · d for the whole vector and for each matryoshka size), float64 [steps].
    """
    lengths_sv = np.asarray(lengths_sv, np.float64)
    inner = encoder.heads * encoder.head_width
    up = encoder.ff * (2 if encoder.gated else 1)
    layer = 2 * encoder.width * (3 * inner + inner + up + encoder.ff)  # of one token: qkv, out, up, down
    seen_s = sum(_seen(lengths_sv, reach).sum(-1) for reach in encoder.windows or (None,) * encoder.layers)
    sizes = {*config.matryoshka_dims, encoder.width}
    return {
        "linear": 3.0 * encoder.layers * layer * lengths_sv.sum(-1),
        "attention": 3.0 * 4 * inner * seen_s,  # a score and a mixed value for each pair of tokens
        "loss": np.full(lengths_sv.shape[:-1], 6.0 * config.pairs**2 * sum(sizes)),
    }


def _seen(length: np.ndarray, reach: int | None) -> np.ndarray:
    """Pairs of tokens of a view in which one sees the other, each token itself included."""
    if reach is None:
        return length**2
    reach = np.minimum(reach, np.maximum(length - 1, 0))
    return length * (2 * reach + 1) - reach * (reach + 1)  # what would lie beyond either end is left out


def ideal_seconds(
    encoder: EncoderConfig, config: ConfigDict, lengths_n2: np.ndarray, kinds: Sequence[str]
) -> np.ndarray | None:
    """What each step would take at the devices' peak, so that over the seconds it took this is the MFU.

    Args:
      encoder: the architecture.
      config: complete.
      lengths_n2: tokens of each record's views, config.pairs records a step; an unfinished last step is left out.
      kinds: the device_kind of each device.

    Returns:
      Seconds, float64 [steps]; None where a peak is not known.
    """
    most = peak(kinds, config.matmul_dtype)
    steps = len(lengths_n2) // config.pairs
    lengths_sv = lengths_n2[: steps * config.pairs].reshape(steps, 2 * config.pairs)
    return None if most is None else sum(step(encoder, config, lengths_sv).values()) / most
