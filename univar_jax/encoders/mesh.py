"""The device mesh: batches over both axes, large parameters over fsdp; the start-up table of devices."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from univar_jax.cli import UserError

AXES = ("data", "fsdp")
# Smaller arrays stay whole everywhere: gathering them would cost more than they take.
_LARGE = 2**20  # elements: 4 MB in float32


def make(data: int, fsdp: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh('data', 'fsdp') over all devices; data = 0 takes what fsdp leaves.

    Args:
      data: size of its axis, or 0.
      fsdp: size of its axis.
      devices: None = those that are here; else ones that are only compiled for.

    Raises:
      UserError: the product is not the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    data = data or max(1, count // fsdp)
    if data * fsdp != count:
        raise UserError(
            f"config.mesh_data={data} x config.mesh_fsdp={fsdp} is {data * fsdp} and there are {count} devices; "
            f"use --config.mesh_data={max(1, count // fsdp)} or a mesh_fsdp that divides {count}"
        )
    # Auto: XLA places what the jitted functions leave open.
    return jax.make_mesh((data, fsdp), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def rows(mesh: Mesh) -> NamedSharding:
    """The leading axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def whole(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def place(tree: Any, shardings: Any) -> Any:
    """Host arrays onto the mesh; with many processes each gives the parts of its own devices."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    put = lambda x, s: jax.make_array_from_callback(x.shape, s, lambda part: x[part])  # noqa: E731
    return jax.tree.map(put, tree, shardings)


def state(mesh: Mesh, tree: Any) -> Any:
    """A sharding for each array of a state, parameters and moments alike.

    The rule: an array of 2**20 elements and more is split along its largest axis that fsdp divides.
    """
    size = mesh.shape["fsdp"]

    def sharding(x: jax.ShapeDtypeStruct) -> NamedSharding:
        fitting = [axis for axis in range(len(x.shape)) if x.shape[axis] % size == 0]
        if size == 1 or math.prod(x.shape) < _LARGE or not fitting:
            return whole(mesh)
        axis = max(fitting, key=lambda a: x.shape[a])
        return NamedSharding(mesh, PartitionSpec(*([None] * axis), "fsdp"))

    return jax.tree.map(sharding, tree)


def table(mesh: Mesh) -> str:
    """Devices and mesh in one line, for the start of a run."""
    kinds, counts = np.unique([d.device_kind for d in mesh.devices.flat], return_counts=True)
    devices = ", ".join(f"{count} x {kind}" for kind, count in zip(kinds, counts, strict=True))
    return f"{devices} in {jax.process_count()} process(es), mesh data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}"
