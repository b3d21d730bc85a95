"""UniVaR λ = 5: views of 1 to 5 QAs in 1024 tokens. The paper's Table 1: k-NN 20.37 %."""

from ml_collections import ConfigDict

from univar_jax import config as univar


def get_config() -> ConfigDict:
    config = univar.defaults()
    config.max_qas = 5
    config.max_tokens = 1024
    return config
