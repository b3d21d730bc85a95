"""λ = 80 in batches of 4,096 pairs, 64 times the paper's, for the 16 chips of a TPU v5e 4x4 slice of 16 GiB each.

What it takes before it is run, on any machine with the extra [aot]; MODEL is NomicBERT, of which config.json is enough:

    python -m univar_jax.train --dry_run --config=configs/large.py --encoder=MODEL --topology=v5e:4x4

Each pair meets 4,095 negatives. The paper has no such run: lr and warm-up are its own for 64 pairs, and not tuned here.
"""

from ml_collections import ConfigDict

from univar_jax import config as univar


def get_config() -> ConfigDict:
    config = univar.defaults()
    config.pairs = 4096
    config.max_qas = 80
    config.max_tokens = 8192
    # Half the memory of each layer's arrays, and the only type that a TPU multiplies in one pass.
    config.matmul_dtype = "bfloat16"
    # A row of 8,192 tokens has 12 heads · 8,192² scores, 3 GiB in float32: so one row a chip at a time, and of its
    # layers one. On another slice: as many rows as it has chips.
    config.rows_per_chunk = 16
    config.remat = "full"
    # Parameters and moments are 1.5 GiB and whole on each chip (mesh_fsdp = 1): to split them, XLA sends the rows'
    # states between chips in each layer.
    return config
