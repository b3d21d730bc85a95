"""UniVaR λ = 80: views of 1 to 80 QAs in 8192 tokens. The paper's Table 1: k-NN 18.01 %."""

from ml_collections import ConfigDict

from univar_jax import config as univar


def get_config() -> ConfigDict:
    config = univar.defaults()
    config.max_qas = 80
    config.max_tokens = 8192
    return config
