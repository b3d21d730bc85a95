"""Collectives are counted once each: with their kind, their bytes on a device, and whether a loop holds them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from univar_jax.encoders import mesh
from univar_jax.training import collectives

# As a TPU's compiler writes it: one gather in two steps of one channel, a scatter as a reduction in a fusion.
TPU = """HloModule jit_step, is_scheduled=true

%add.1 (a.1: f32[], b.1: f32[]) -> f32[] {
  %a.1 = f32[]{:T(128)} parameter(0)
  %b.1 = f32[]{:T(128)} parameter(1)
  ROOT %sum.1 = f32[]{:T(128)} add(%a.1, %b.1)
}

%all-reduce-scatter.4 (input.1: f32[16,8]) -> f32[2,8] {
  %input.1 = f32[16,8]{1,0:T(8,128)} parameter(0)
  %all-reduce.7 = f32[16,8]{1,0:T(8,128)} all-reduce(%input.1), channel_id=3, to_apply=%add.1
  ROOT %slice.1 = f32[2,8]{1,0:T(8,128)} slice(%all-reduce.7), slice={[0:2], [0:8]}
}

%body.1 (state.1: (s32[], bf16[2,8], f32[16,8])) -> (s32[], bf16[2,8], f32[16,8]) {
  %state.1 = (s32[]{:T(128)}, bf16[2,8]{1,0:T(8,128)(2,1)}, f32[16,8]{1,0}) parameter(0)
  %one.1 = bf16[2,8]{1,0:T(8,128)(2,1)} get-tuple-element(%state.1), index=1
  %all-gather.1 = bf16[16,8]{1,0:T(8,128)(2,1)} all-gather(%one.1), channel_id=1, dimensions={0}
  %all-gather.2 = bf16[16,8]{1,0:T(8,128)(2,1)} all-gather(%one.1), channel_id=1, dimensions={0}
  %fusion.1 = f32[2,8]{1,0:T(8,128)} fusion(%all-gather.2), kind=kCustom, calls=%all-reduce-scatter.4
  ROOT %tuple.1 = (s32[], bf16[2,8]{1,0}, f32[16,8]{1,0}) tuple(%state.1, %one.1, %fusion.1)
}

%cond.1 (state.2: (s32[], bf16[2,8], f32[16,8])) -> pred[] {
  %state.2 = (s32[], bf16[2,8]{1,0}, f32[16,8]{1,0}) parameter(0)
  ROOT %less.1 = pred[] constant(true)
}

ENTRY %main (x.1: f32[4], y.1: (s32[], bf16[2,8], f32[16,8])) -> f32[4] {
  %x.1 = f32[4]{0} parameter(0)
  %y.1 = (s32[], bf16[2,8]{1,0}, f32[16,8]{1,0}) parameter(1)
  %while.1 = (s32[], bf16[2,8]{1,0}, f32[16,8]{1,0}) while(%y.1), condition=%cond.1, body=%body.1
  %permute.1 = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%x.1), channel_id=5
  %permute.2 = f32[4]{0} collective-permute-done(%permute.1)
  ROOT %all-to-all.1 = f32[4]{0} all-to-all(%permute.2), channel_id=6, dimensions={0}
}
"""


def test_a_program_as_a_tpus_compiler_writes_it():
    assert collectives.count(TPU) == {
        "all-gather": {"count": 1, "in_loops": 1, "bytes": 16 * 8 * 2},
        "reduce-scatter": {"count": 1, "in_loops": 1, "bytes": 16 * 8 * 4},
        "collective-permute": {"count": 1, "in_loops": 0, "bytes": 4 * 4 + 8},  # and two counters
        "all-to-all": {"count": 1, "in_loops": 0, "bytes": 4 * 4},
    }


def test_real_programs():
    devices = mesh.make(8, 1)
    rows, whole = mesh.rows(devices), mesh.whole(devices)

    def compiled(function, out):
        given = jax.ShapeDtypeStruct((16, 32), np.float32, sharding=rows)
        return collectives.count(jax.jit(function, out_shardings=out).lower(given).compile().as_text())

    assert compiled(lambda x: x + 1, rows) == {}
    assert compiled(lambda x: x + 1, whole) == {"all-gather": {"count": 1, "in_loops": 0, "bytes": 16 * 32 * 4}}
    assert compiled(lambda x: x.sum(0), whole) == {"all-reduce": {"count": 1, "in_loops": 0, "bytes": 32 * 4}}

    def walk(x):
        permute = jax.shard_map(
            lambda part: jax.lax.ppermute(part, "data", [(i, (i + 1) % 8) for i in range(8)]),
            mesh=devices,
            in_specs=PartitionSpec("data"),
            out_specs=PartitionSpec("data"),
        )
        return jax.lax.fori_loop(0, 5, lambda _, x: jnp.sin(permute(x)), x)

    found = compiled(walk, NamedSharding(devices, PartitionSpec("data")))
    assert found == {"collective-permute": {"count": 1, "in_loops": 1, "bytes": 2 * 32 * 4}}
