"""UniVaR λ = 20: views of 1 to 20 QAs in 2048 tokens. The paper's Table 1: k-NN 19.99 %."""

from ml_collections import ConfigDict

from univar_jax import config as univar


def get_config() -> ConfigDict:
    config = univar.defaults()
    config.max_qas = 20
    config.max_tokens = 2048
    return config
