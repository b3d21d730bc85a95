"""QA files → one unit vector a view, in a Parquet file that needs none of this to read."""

import dataclasses
import functools
import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import flags
from etils import epath

from univar_jax import __version__, cli, files, qa
from univar_jax import config as configs
from univar_jax.cli import UserError
from univar_jax.encoders import encode, encoder, mesh, models, tokens, weights
from univar_jax.training import programs, runs
from univar_jax.training.loss import leading

# A cap below this leaves no room beside the special tokens.
_FEWEST = 8
# The rule for an encoder that no run of ours trained: it has seen nothing, so any split of questions is fair.
_NO_RUN = {"seed": 0, "share": qa.SHARE, "corpora": []}


@dataclasses.dataclass(frozen=True)
class Model:
    """An encoder with its weights and what is known of its training.

    Attributes:
      name: as the reports show it.
      folder: tokenizer and config.
      params: nested dict of float32 arrays.
      holdout: {"seed", "share", "corpora"} of the run that trained it.
      step: its finished steps; None for an encoder that no run of ours trained.
      config_hash: of that run's config, or "".
    """

    name: str
    folder: epath.Path
    params: dict
    holdout: dict
    step: int | None = None
    config_hash: str = ""

    @functools.cached_property
    def digest(self) -> str:
        """Which weights these are."""
        return weights.digest(self.params)


def open_model(model: str) -> Model:
    """MODEL_OR_RUN: the newest checkpoint of a run, an export of one, or any encoder."""
    name = model if model == "minilm" else Path(model).absolute().name
    if runs.is_run(model):
        run = runs.read(model)
        rule = run.manifest["holdout"]
        return Model(
            name, run.encoder_folder, run.params, rule, run.step, configs.digest(configs.mathematics(run.config))
        )
    folder = models.folder(model)
    params = weights.load(folder, models.read_config(folder))
    facts = folder / "univar.json"
    if not facts.exists():
        return Model(name, folder, params, _NO_RUN)
    try:
        known = json.loads(facts.read_text("utf-8"))
        return Model(name, folder, params, known["holdout"], known["step"], known["config_hash"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{facts} is broken ({cli.one_line(error)}); export the run again") from error


def embed(
    model: str, qa_paths: str, out: str, *, qas_per_view: int = 1, max_tokens: int = 0, seed: int = 0, dims: int = 0
) -> None:
    """Writes EMB.parquet.

    Args:
      model: MODEL or RUN.
      qa_paths: the QA files, as qa.read takes them.
      out: the file to write.
      qas_per_view: QAs of a view; above 1 they are random handfuls of a source's QAs on one side of the split.
      max_tokens: cap of a view; 0 = the encoder's positions.
      seed: of the handfuls.
      dims: only so many leading numbers of each vector, brought to unit norm again; 0 = all.

    Raises:
      UserError: for what the user can mend; nothing is written then.
    """
    began, loaded = time.monotonic(), open_model(model)
    cap = _cap(models.read_config(loaded.folder), model, max_tokens, dims)
    answers = qa.read(qa_paths)
    facts = {"files": answers.files, "weights": loaded.digest, "per_view": qas_per_view, "cap": cap, "seed": seed}
    facts |= {"dims": dims} if dims else {}  # left out where all are wanted: files of earlier versions stay finished
    inputs = configs.digest(facts | {"holdout": loaded.holdout})
    path = files.place(out, "out")
    if _finished(path, inputs):
        return
    made = table(loaded, answers, cap, qas_per_view=qas_per_view, seed=seed, dims=dims)
    _write(path, made.replace_schema_metadata(made.schema.metadata | {b"inputs": inputs.encode()}))
    size = made.schema.field("embedding").type.list_size
    print(f"wrote {path}: {len(made):,} vectors of {size} in {time.monotonic() - began:.1f} s", flush=True)


def table(
    loaded: Model, answers: qa.Answers, cap: int, *, qas_per_view: int = 1, seed: int = 0, dims: int = 0
) -> pa.Table:
    """The rows of EMB.parquet with the metadata that says how they were made; the arguments are `embed`'s."""
    config = models.read_config(loaded.folder)
    columns = _columns(answers, loaded.holdout)
    views = [[i] for i in range(len(answers))]
    if qas_per_view > 1:
        views = _handfuls(answers, columns["split"], loaded.holdout, qas_per_view, seed)
    tokenizer = models.tokenizer(loaded.folder)
    texts = [qa.text(q, a) for q, a in zip(answers.columns["question"], answers.columns["answer"], strict=True)]
    spelt = tokens.tokenize(tokenizer, texts)
    made = [spelt.view(view, cap) for view in views]
    kept = [view[: max(1, size)] for view, (_, size) in zip(views, made, strict=True)]
    print(
        f"{len(answers):,} answers, {answers.dropped:,} empty ones dropped; {len(views):,} views, "
        f"{sum(size == 0 for _, size in made):,} cut to {cap} tokens, "
        f"{sum(map(len, views)) - sum(map(len, kept)):,} QAs dropped to fit",
        flush=True,
    )
    z_nd = encode.embedder(encoder.build(config), mesh.make(0, 1))(loaded.params, [ids for ids, _ in made])
    if dims:
        z_nd = np.asarray(leading(z_nd, dims))[:, :dims]
    size = f":{dims}" if dims else ""  # reports compare the sizes of one encoder as they do encoders
    about = {
        "encoder": loaded.name + size,
        "weights": loaded.digest + size,
        "step": "" if loaded.step is None else str(loaded.step),
        "config_hash": loaded.config_hash,
        "holdout": json.dumps(loaded.holdout, sort_keys=True),
        "qas_per_view": str(qas_per_view),
        "max_tokens": str(cap),
        "dims": str(z_nd.shape[1]),
        "version": __version__,
    }
    return _table(z_nd, kept, texts, columns, qas_per_view).replace_schema_metadata(about)


def _cap(config: models.EncoderConfig, model: str, max_tokens: int, dims: int) -> int:
    """The cap of a view, where the encoder can do what the flags ask."""
    cap = max_tokens or config.positions
    if cap < _FEWEST:
        raise UserError(f"--max_tokens={cap} leaves no room for words beside the special tokens; use {_FEWEST} or more")
    if cap > config.positions:
        raise UserError(f"--max_tokens={cap} is more than the {config.positions} positions of --model={model}")
    if dims > config.width:
        raise UserError(f"--dims={dims} is more than the {config.width} numbers of a vector of --model={model}")
    return cap


def _columns(answers: qa.Answers, holdout: dict) -> dict[str, list[str]]:
    """Everything but the texts, with each QA's source and split."""
    columns = {k: v for k, v in answers.columns.items() if k not in ("question", "answer", "text", "split")}
    # The group is written out: without the question's own column nobody else could tell it.
    columns["group_id"] = qa.groups(answers.columns)
    held = qa.heldout(columns["group_id"], holdout["seed"], holdout["share"])
    corpora = columns.get("dataset") or [""] * len(answers)
    sides = [
        ("heldout" if h else "train") if c in holdout["corpora"] else "unseen"
        for h, c in zip(held, corpora, strict=True)
    ]
    return columns | {"source": qa.sources(answers), "split": sides}


def _handfuls(answers: qa.Answers, split: list[str], holdout: dict, size: int, seed: int) -> list[list[int]]:
    """Each QA once, in random handfuls that mix no source, corpus, control or side of the rule.

    The side counts for `unseen` rows too, so that whoever splits them later by that rule splits no view.
    """
    held = qa.heldout(qa.groups(answers.columns), holdout["seed"], holdout["share"] or qa.SHARE)
    keys = [
        qa.sources(answers),
        answers.columns.get("dataset") or [""] * len(answers),
        qa.value_relevant(answers).tolist(),
        split,
        held.tolist(),
    ]
    buckets: dict[tuple, list[int]] = {}
    for i, key in enumerate(zip(*keys, strict=True)):
        buckets.setdefault(key, []).append(i)
    views = []
    for number, members in enumerate(buckets.values()):
        words = np.random.Philox(key=[seed, number]).random_raw(len(members))
        shuffled = [members[i] for i in np.argsort(words, kind="stable")]
        views += [shuffled[i : i + size] for i in range(0, len(shuffled), size)]
    return views


def _table(
    z_nd: np.ndarray, views: list[list[int]], texts: list[str], columns: dict[str, list[str]], qas_per_view: int
) -> pa.Table:
    """One row a view; a column whose value the QAs of a view do not share is empty there."""
    flat = pa.array(np.ascontiguousarray(z_nd, np.float32).ravel())
    table: dict[str, object] = {
        "embedding": pa.FixedSizeListArray.from_arrays(flat, z_nd.shape[1]),
        "text": ["\n".join(texts[i] for i in view) for view in views],
    }
    for name, values in columns.items():
        if qas_per_view > 1 and name in ("question_id", "group_id"):
            table[name] = [[values[i] for i in view] for view in views]
        else:
            shared = [{values[i] for i in view} for view in views]
            table[name] = [s.pop() if len(s) == 1 else "" for s in shared]
    return pa.table(table)


def _finished(path: files.Place, inputs: str) -> bool:
    if path.is_dir():
        raise UserError(f"--out={path} is a folder; give the name of a Parquet file")
    if not path.exists():
        return False
    try:
        with path.open("rb") as file:
            there = (pq.read_schema(file).metadata or {}).get(b"inputs", b"").decode()
    except pa.ArrowException:
        there = ""
    if there != inputs:
        raise UserError(f"--out={path} exists and was made from other inputs; give another --out or remove it")
    print(f"{path} is finished and the same", flush=True)
    return True


def _write(path: files.Place, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.whole(path) as file:
        pq.write_table(table, file, compression="zstd")


if __name__ == "__main__":
    flags.DEFINE_string(
        "model",
        None,
        "The encoder: a run's folder, an export, a Hugging Face folder, a hub id or minilm.",
        required=True,
    )
    flags.DEFINE_string("qa", None, "QA files: comma-separated files, folders and globs.", required=True)
    flags.DEFINE_string("out", None, "The Parquet file to write.", required=True)
    flags.DEFINE_integer("qas_per_view", 1, "QAs of a view.", lower_bound=1)
    flags.DEFINE_integer("max_tokens", 0, "Cap of a view in tokens; 0 = the encoder's positions.", lower_bound=0)
    flags.DEFINE_integer(
        "dims",
        0,
        "Leading numbers of each vector to keep, to unit norm again; 0 = all. For encoders trained so.",
        lower_bound=0,
    )
    flags.DEFINE_integer("seed", 0, "Of the handfuls where a view has several QAs.", lower_bound=0)

    def _main(f: flags.FlagValues) -> None:
        programs.keep_memory()
        programs.cache()
        embed(f.model, f.qa, f.out, qas_per_view=f.qas_per_view, max_tokens=f.max_tokens, seed=f.seed, dims=f.dims)

    cli.run(_main)
