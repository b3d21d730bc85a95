"""A checkpoint → a sentence-transformers folder, checked in torch against jax before it gets its name."""

import csv
import importlib.util
import json
import os
import re
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np
from etils import epath

import univar_jax
from univar_jax import cli, files
from univar_jax import config as univar_config
from univar_jax.cli import UserError
from univar_jax.encoders import encode, encoder, export_onnx, hfconfig, mesh, models, modules, names, weights

# Largest difference of a coordinate of unit vectors, float32: measured 1e-7 to 4e-7, a wrong word is above 1e-3.
PARITY_LIMIT = 1e-5
_TEXTS = 32
_UNCHECKED = "not checked: pip install 'univar_jax[torch]'"
_COPIED = ("special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json")


def export(workdir: str, out: str, step: int | None, dtype: str = "float32", onnx: bool = False) -> int:
    """The stage: reads a run, writes the folder, prints what it did.

    Args:
      workdir: the run.
      out: the folder to make; one that is the same already is left alone.
      step: which checkpoint; None is the last.
      dtype: of the weights in the file, float32 or bfloat16.
      onnx: whether onnx/model.onnx is made too.

    Returns:
      0.
    """
    from univar_jax.training import runs

    run = runs.read(workdir, step)
    facts = {
        "encoder": run.manifest["encoder"]["model"],
        "fingerprint": run.manifest["fingerprint"],
        "holdout": run.manifest["holdout"],
        "config": run.config,
        "step": run.step,
        "metrics": run.metrics,
    }
    export_params(run.params, run.encoder_folder, out, facts, dtype, onnx)
    return 0


def export_params(
    params: dict, encoder_folder: epath.Path, out: str, facts: dict, dtype: str = "float32", onnx: bool = False
) -> None:
    """Writes parameters as a sentence-transformers folder that plain transformers and this package load too.

    Args:
      params: nested dict of arrays, as `weights.load` gives.
      encoder_folder: the base encoder: config, tokenizer and untrained tensors come from there.
      out: the folder to make, local or remote.
      facts: encoder (the word MODEL), fingerprint, holdout {seed, share, corpora}, config, step, metrics (lines
        of metrics.jsonl; may be empty).
      dtype, onnx: as `export` takes them.

    Raises:
      UserError: out is there and holds something else; torch (or onnxruntime) and jax differ by more than
        PARITY_LIMIT; the extra [onnx] is wanted and not there.
    """
    out = os.path.expanduser(out)
    if onnx and not (export_onnx.installed() and _torch_installed()):
        raise UserError("--onnx needs packages that are not installed: pip install 'univar_jax[onnx]'")
    univar = {
        "version": univar_jax.__version__,
        "encoder": _shown(facts["encoder"]),
        "config": univar_config.mathematics(facts["config"]),
        "config_hash": univar_config.digest(univar_config.mathematics(facts["config"])),
        "step": facts["step"],
        "holdout": facts["holdout"],
        "fingerprint": facts["fingerprint"],
        "weights": weights.digest(params),
        "dtype": dtype,
        "onnx": onnx,
    }
    if _is_there(epath.Path(out), univar):
        print(f"{out} is there and the same (step {univar['step']}, weights {univar['weights'][:12]}): nothing to do")
        return
    with files.whole_folder(epath.Path(out), last="univar.json") as aside:
        carried = _fill(aside, params, epath.Path(encoder_folder), univar)
        parity = _parity(aside, params)
        _write_card(aside, univar, facts["metrics"], parity, epath.Path(out).name)
    print(f"carried as they are, not trained: {carried}")
    for what, said in parity.items():
        print(f"{what} on {_TEXTS} texts: {said}")
    print(f"wrote {out} (step {univar['step']}, weights {univar['weights'][:12]}, {dtype})")


def _is_there(out: epath.Path, univar: dict) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        if json.loads((out / "univar.json").read_text()) == json.loads(json.dumps(univar)):
            return True
    except (OSError, ValueError):
        pass  # no such file, or another program's
    raise UserError(f"--out={out} exists and is not this export; give another name or remove it (nothing was touched)")


def _fill(aside: Path, params: dict, base: epath.Path, univar: dict) -> str:
    """Writes all but the card and ONNX; returns which tensors went along untrained, in words."""
    config = models.read_config(base)
    native = hfconfig.read(base) | {"dtype": univar["dtype"]}
    if not config.stretch:  # there the number is not the longest text, but where the angles begin to change
        native["max_position_embeddings"] = config.position_start + config.positions
    for stale in ("_name_or_path", "torch_dtype"):  # where the base once lay on someone's disk; its older name
        native.pop(stale, None)
    modules.write_json(aside / "config.json", native)
    carried = weights.carried(base, config)
    said = ", ".join(carried) or "none"
    if config.architecture in names.POOLED and not set(names.POOLER) & set(carried):
        # transformers would make one up at random, and warn.
        kernel, bias = names.POOLER
        carried[kernel] = np.zeros((config.width, config.width), np.float32)
        carried[bias] = np.zeros(config.width, np.float32)
        said += f"; the base has no pooler, zeros stand for {', '.join(names.POOLER)}"
    weights.save(params, config, carried, epath.Path(aside), univar["dtype"])
    models.tokenizer(base).save(str(aside / "tokenizer.json"))
    modules.write_json(aside / "tokenizer_config.json", _tokenizer_config(base, config.positions))
    for name in _COPIED:
        if (base / name).exists():
            (aside / name).write_bytes((base / name).read_bytes())
    modules.write(aside, config.pooling, config.width, config.positions, univar["version"])
    modules.write_json(aside / "univar.json", univar)
    return said


def _tokenizer_config(base: epath.Path, positions: int) -> dict:
    path = base / "tokenizer_config.json"
    given = json.loads(path.read_text()) if path.exists() else {"tokenizer_class": "PreTrainedTokenizerFast"}
    # A baked-in length would cut views again, this time in torch; a path would tell where the base lay.
    stale = ("max_length", "stride", "truncation_strategy", "pad_to_multiple_of", "name_or_path", "is_local")
    kept = {k: v for k, v in given.items() if k not in stale} | {"model_max_length": positions}
    pad = models.tokenizer(base).id_to_token(models.read_config(base).pad)
    return {"pad_token": pad} | kept  # without one torch cannot put texts of two lengths into a batch


# -- the check -----------------------------------------------------------------------------------------------


def _parity(folder: Path, params: dict) -> dict[str, str]:
    """The folder as torch (and onnxruntime) reads it against jax, and what rounding the weights cost; in words."""
    univar = hfconfig.read_json(folder / "univar.json")
    texts = sample_texts(_TEXTS)
    ours_nd, said = embed_jax(folder, texts), {"torch against jax": _UNCHECKED}
    if _torch_installed():
        said["torch against jax"] = _apart("torch", embed_torch(folder, texts), ours_nd)
    if univar["onnx"]:
        export_onnx.write(folder)
        said["onnxruntime against jax"] = _apart("onnxruntime", export_onnx.embed(folder, texts), ours_nd)
    if univar["dtype"] != "float32":
        cosine_n = np.sum(embed_jax(folder, texts, params) * ours_nd, axis=-1)
        said[f"weights rounded to {univar['dtype']} against the trained"] = f"smallest cosine {cosine_n.min():.6f}"
    return said


def _apart(what: str, theirs_nd: np.ndarray, ours_nd: np.ndarray) -> str:
    apart = float(np.abs(theirs_nd - ours_nd).max())
    if not apart <= PARITY_LIMIT:
        raise UserError(
            f"{what} and jax differ by {apart:.1e} in a coordinate, above {PARITY_LIMIT:.0e}; nothing was written: "
            "please report it with the encoder's name"
        )
    return f"largest difference {apart:.1e} (limit {PARITY_LIMIT:.0e})"


def _torch_installed() -> bool:
    return importlib.util.find_spec("sentence_transformers") is not None


def sample_texts(count: int) -> list[str]:
    """QA texts of the embedded sample, spread over its models and languages."""
    folder = resources.files("univar_jax") / "sample" / "qa"
    by_source: dict[tuple, list[str]] = {}
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines(keepends=True)):
            text = f"Q: {row['question'].strip()} A: {row['answer'].strip()}"
            by_source.setdefault((row["model"], row["lang"]), []).append(text)
    queues = list(by_source.values())
    return [queues[i % len(queues)][i // len(queues)] for i in range(count)]


def embed_jax(folder: Path, texts: list[str], params: dict | None = None) -> np.ndarray:
    """Unit vectors of texts from a folder, float32, one text a row; with other parameters than its own if given."""
    config = models.read_config(epath.Path(folder))
    params = weights.load(epath.Path(folder), config) if params is None else params
    tokenizer = models.tokenizer(epath.Path(folder))
    tokenizer.enable_truncation(config.positions)  # keeps the mark at a text's end, as sentence-transformers does
    ids = [np.array(e.ids) for e in tokenizer.encode_batch(texts)]
    return encode.embedder(encoder.build(config), mesh.make(0, 1))(params, ids)


def embed_torch(folder: Path, texts: list[str]) -> np.ndarray:
    """The same by sentence-transformers in float32, on the CPU and without a question to the hub."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read at import; the folder has all it needs
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer

    transformers.utils.logging.disable_progress_bar()  # stderr is for mistakes
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32})
    if not models.read_config(epath.Path(folder)).stretch:
        return model.encode(texts, convert_to_numpy=True, show_progress_bar=False)
    vectors = []
    for text in texts:  # the angles are those of a batch's longest text, and are kept for the next: each text by itself
        inner = model[0].auto_model
        inner.rotary_emb = type(inner.rotary_emb)(inner.config)
        vectors.append(model.encode([text], convert_to_numpy=True, show_progress_bar=False))
    return np.concatenate(vectors)


# -- the card and the files ----------------------------------------------------------------------------------


def _write_card(aside: Path, univar: dict, metrics: list[dict], parity: dict[str, str], name: str) -> None:
    config = models.read_config(epath.Path(aside))
    last = next((line for line in reversed(metrics) if any(k.startswith("eval/") for k in line)), {})
    scores = [f"{k.removeprefix('eval/')} {v:.3f}" for k, v in last.items() if k.startswith("eval/")]
    template = (resources.files("univar_jax") / "card.md.j2").read_text(encoding="utf-8")
    jinja = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    card = jinja.from_string(template).render(
        univar
        | {
            "name": name,
            "encoder_id": _hub_id(univar["encoder"]),
            "width": config.width,
            "positions": config.positions,
            "architecture": config.architecture,
            "layers": config.layers,
            "scores": f"{', '.join(scores)} (step {last['step']})" if scores else "none",
            "parity": parity,
            "pooling": config.pooling,
            "plain_positions": config.plain_positions,
            "dims": sorted(univar["config"].get("matryoshka_dims", ())),
            "config": json.dumps(univar["config"], indent=2, sort_keys=True),
        }
    )
    (aside / "README.md").write_text(card, encoding="utf-8")


def _shown(model: str) -> str:
    """MODEL as others may read it: a hub id or minilm as it is, of a path only the last name."""
    return model if re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", model) else epath.Path(model).name


def _hub_id(shown: str) -> str | None:
    if shown == "minilm":
        return "sentence-transformers/all-MiniLM-L6-v2"
    return shown if "/" in shown else None


if __name__ == "__main__":
    from absl import flags

    flags.DEFINE_string("workdir", None, "The run, as train made it.", required=True)
    flags.DEFINE_string("out", None, "The sentence-transformers folder to make.", required=True)
    flags.DEFINE_integer("step", None, "Which checkpoint; the last where left out.", lower_bound=0)
    flags.DEFINE_enum(
        "dtype", "float32", ["float32", "bfloat16"], "Of the weights in the file; bfloat16 takes half the room."
    )
    flags.DEFINE_bool("onnx", False, "Also onnx/model.onnx, checked by onnxruntime; needs the extra [onnx].")
    cli.run(lambda f: export(f.workdir, f.out, f.step, f.dtype, f.onnx))
