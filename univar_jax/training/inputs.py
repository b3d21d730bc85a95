"""What a run starts from, checked against one another: config, records, encoder, tokenizer."""

import dataclasses

from etils import epath
from ml_collections import ConfigDict

from univar_jax import files
from univar_jax.cli import UserError
from univar_jax.dataset import shards
from univar_jax.encoders import models, tokens
from univar_jax.training import programs


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a run starts from, checked against one another.

    Attributes:
      data: DATA.
      manifest: its manifest.
      pairs: its training records.
      total: steps of the run.
      model: the word MODEL.
      folder: the encoder's.
      encoder: its config.
    """

    data: files.Place
    manifest: dict
    pairs: shards.Shards
    total: int
    model: str
    folder: epath.Path
    encoder: models.EncoderConfig


def records(config: ConfigDict, data: str) -> tuple[dict, shards.Shards, int]:
    """DATA's manifest, its training records and the steps that they are to give.

    Raises:
      UserError: DATA was prepared with another config, or has too few records.
    """
    manifest = shards.read_manifest(data)
    for key, prepared in manifest["config"].items():
        if config[key] != prepared:
            raise UserError(
                f"config.{key}={config[key]} but --data={data} was prepared with {prepared}; "
                f"use --config.{key}={prepared} or prepare again"
            )
    pairs = shards.Shards(files.place(data, "data"), manifest, "train")
    return manifest, pairs, _total_steps(config, data, len(pairs))


def open_all(config: ConfigDict, data: str, model: str) -> Inputs:
    """DATA and the encoder, checked against config and one another.

    Raises:
      UserError: for what the user can mend.
    """
    manifest, pairs, total = records(config, data)
    model = model or manifest["encoder"]["model"]
    folder = models.folder(model)
    found = tokens.digest(models.tokenizer(folder))
    if found != manifest["encoder"]["tokenizer"]:
        raise UserError(
            f"--data={data} was spelt by the tokenizer of {manifest['encoder']['model']} "
            f"({manifest['encoder']['tokenizer'][:8]}), that of --encoder={model} is another ({found[:8]}); "
            "prepare again with this encoder"
        )
    architecture = models.read_config(folder)
    programs.check(config, architecture, model)
    return Inputs(files.place(data, "data"), manifest, pairs, total, model, folder, architecture)


def _total_steps(config: ConfigDict, data: str, records: int) -> int:
    possible = records // config.pairs
    if not possible:
        raise UserError(
            f"config.pairs={config.pairs} is more than the {records} records of --data={data}; use fewer pairs"
        )
    if config.steps > possible:
        raise UserError(
            f"config.steps={config.steps} of {config.pairs} pairs need {config.steps * config.pairs:,} records and "
            f"--data={data} has {records:,}: use --config.steps={possible}, or prepare with more --config.epochs"
        )
    return config.steps or possible
