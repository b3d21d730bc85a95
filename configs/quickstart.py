"""Minutes on a laptop: MiniLM on the embedded sample's English answers."""

from ml_collections import ConfigDict

from univar_jax import config as univar


def get_config() -> ConfigDict:
    config = univar.defaults()
    config.seed = 0
    config.pairs = 32
    config.steps = 40
    config.epochs = 4  # 40 steps of 32 pairs are 1,280 records; an epoch of the sample has 456
    config.lr = 1e-4  # at the paper's 2e-4 so short a run is all warm-up
    config.warmup_steps = 10
    config.log_every_steps = 1
    config.eval_every_steps = 20
    config.save_every_steps = 20
    return config
