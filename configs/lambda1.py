"""UniVaR λ = 1: views of one QA in 256 tokens. The paper's Table 1: k-NN 18.68 %."""

from ml_collections import ConfigDict

from univar_jax import config as univar


def get_config() -> ConfigDict:
    return univar.defaults()
