"""QA files → pairs of views → TFRecord shards; the same bytes for any number of workers and interruptions."""

import collections
import functools
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence

import numpy as np
from absl import flags
from etils import epath
from ml_collections import ConfigDict, config_flags
from tokenizers import Tokenizer

from univar_jax import cli, files, qa
from univar_jax import config as configs
from univar_jax.cli import UserError
from univar_jax.dataset import pairs, pipeline, shards, views
from univar_jax.encoders import models, tokens
from univar_jax.files import Place

# Raised when the law of views, a QA's text or the shards' layout changes: a folder of another law is another.
LAW_VERSION = 1
_PARTIAL, _PARTS = "manifest.partial.json", ".parts"


def prepare(
    qa_paths: str,
    encoder: str,
    out: str,
    config: ConfigDict,
    *,
    lang: str = "",
    include_control: bool = False,
    workers: int = 0,
    runner: str = "",
    runner_options: Sequence[str] = (),
) -> dict:
    """Writes the folder DATA, or goes on where a killed run of the same inputs stopped.

    Args:
      qa_paths: the QA files, as qa.read takes them.
      encoder: the model whose tokenizer spells the views.
      out: the folder.
      config: as config.complete returns it.
      lang: comma-separated languages to take; all where empty.
      include_control: whether rows with value_relevant false make pairs too.
      workers: processes; 0 = one a core.
      runner: of Apache Beam, whose machines write the shards; "" = these processes do.
      runner_options: Beam's own flags.

    Returns:
      The manifest.

    Raises:
      UserError: for what the user can mend; before anything is written, but for a full disk.
    """
    began = time.monotonic()
    if runner:
        pipeline.check(runner, out)
    tokenizer, facts = _encoder(encoder, config.max_tokens)
    answers, counts = _taken(qa.read(qa_paths), lang, include_control)
    splits, rows, kept = _split(answers, config)
    settings = {key: config[key] for key in configs.PREPARE_KEYS}
    manifest = {"law": LAW_VERSION, **facts, "config": settings, "qa": counts, **kept}
    # The tokenizer decides the records, not the name or the place that the user gave for it.
    nameless = {k: v for k, v in facts["encoder"].items() if k != "model"}
    manifest["fingerprint"] = configs.digest(manifest | {"encoder": nameless})
    folder = files.place(out, "out")
    if _finished(folder, manifest["fingerprint"]):
        return shards.read_manifest(out)
    parts = folder / _PARTS
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / _PARTIAL, _json(manifest))  # before all else: by it a killed run is known again
    parts.mkdir(exist_ok=True)
    work = pairs.Work(folder, parts, splits, kept["sources"], facts["ids_dtype"], config.max_tokens)
    _spell(work, tokenizer, answers.take(rows))
    manifest["splits"] = pairs.write(work, _makers(workers, runner, runner_options))
    codec = shards.features(np.dtype(work.ids_dtype), work.sources)
    manifest["metadata"] = shards.write_metadata(folder, codec, manifest["splits"])
    manifest["sha256"] = configs.digest(manifest)
    epath.Path(parts).rmtree()
    files.write(folder / shards.MANIFEST, _json(manifest))
    (folder / _PARTIAL).unlink()
    _say_written(folder, manifest, time.monotonic() - began)
    return manifest


def _makers(workers: int, runner: str, options: Sequence[str]) -> Callable[[pairs.Work, list[pairs.Job]], list[dict]]:
    """Who makes the shards."""
    if runner:
        return functools.partial(pipeline.make_shards, runner=runner, options=options)
    return functools.partial(pairs.by_processes, workers=workers or os.cpu_count() or 1)


def _encoder(encoder: str, max_tokens: int) -> tuple[Tokenizer, dict]:
    folder = models.folder(encoder)
    tokenizer, positions = models.tokenizer(folder), models.read_config(folder).positions
    if max_tokens > positions:
        raise UserError(
            f"config.max_tokens={max_tokens} is more than the {positions} positions of --encoder={encoder}; "
            f"use --config.max_tokens={positions} or an encoder of more positions"
        )
    facts = {"model": encoder, "tokenizer": tokens.digest(tokenizer), "positions": positions}
    return tokenizer, {"encoder": facts, "ids_dtype": tokens.dtype(tokenizer).name}


def _taken(answers: qa.Answers, lang: str, include_control: bool) -> tuple[qa.Answers, dict]:
    """The answers that may make pairs, and the manifest's counts of what was there."""
    langs = [x.strip() for x in lang.split(",") if x.strip()]
    for absent in sorted(set(langs) - set(answers.columns["lang"])):
        there = ", ".join(sorted(set(answers.columns["lang"])))
        raise UserError(f"--lang={absent}: no answer is in that language; there: {there}")
    spoken = np.array([not langs or x in langs for x in answers.columns["lang"]], bool)
    control = spoken & ~qa.value_relevant(answers)
    counts = {
        "files": answers.files,
        "answers": len(answers),
        "empty": answers.dropped,
        "other_languages": int((~spoken).sum()),
        "control": int(control.sum()),
        "control_included": include_control,
    }
    print(
        f"{len(answers):,} answers in {len(answers.files)} files, {answers.dropped:,} empty ones dropped"
        + (f"; {counts['other_languages']:,} in other languages than {lang} left out" if langs else "")
        + f"; {int((spoken & ~control).sum()):,} about values, {counts['control']:,} control rows "
        + ("taken too" if include_control else "left out"),
        flush=True,
    )
    taken = np.flatnonzero(spoken & (~control | include_control))
    if not len(taken):
        raise UserError(f"all {int(spoken.sum()):,} rows have value_relevant false; --include_control takes them too")
    return answers.take(taken), counts


def _split(answers: qa.Answers, config: ConfigDict) -> tuple[dict[str, pairs.Split], np.ndarray, dict]:
    """Sources and sides.

    Returns:
      The splits; the answers that they hold, in their order; the manifest's facts on sources and holdout.
    """
    groups = np.array(qa.groups(answers.columns), object)
    _say_mixed(answers)
    held = qa.heldout(groups, config.seed, config.holdout)
    names = np.array(qa.sources(answers), object)
    sizes = collections.Counter(names[~held])
    sources = sorted(name for name, size in sizes.items() if size > 1)
    left_out = {name: sizes[name] for name in sorted(set(names) - set(sources))}
    for name, size in left_out.items():
        print(f"left out: {name} has {size} QA{'s' * (size != 1)} to train on, a source needs 2", flush=True)
    if not sources:
        names_of_files = ", ".join(name for name, _ in answers.files[:3]) + (", …" if len(answers.files) > 3 else "")
        raise UserError(
            f"{names_of_files}: no source has 2 QAs to train on ({len(answers)} rows of {len(left_out)} sources taken, "
            f"{int(held.sum())} held out); give more answers or a smaller --config.holdout"
        )
    datasets = np.array(answers.columns.get("dataset") or [""] * len(answers), object)
    known = np.isin(names, sources)
    holdout = {
        "rule": "held out where sha256(seed, newline, group), its first 8 bytes as a big-endian number, "
        "is below share * 2**64; the group is group_id, else question_id, else the question",
        "seed": config.seed,
        "share": config.holdout,
        "corpora": sorted(set(datasets[known])),
    }
    print(
        f"{len(sources)} sources; held out: {int((known & held).sum()):,} answers, "
        f"{len(set(groups[known & held])):,} of {len(set(groups[known])):,} question groups",
        flush=True,
    )
    number = {name: i for i, name in enumerate(sources)}
    order = np.array([number.get(name, -1) for name in names])
    splits, rows = _order(order, held, config, len(sources))
    return splits, rows, {"sources": sources, "left_out": left_out, "holdout": holdout}


def _say_mixed(answers: qa.Answers) -> None:
    for name in ("group_id", "question_id"):
        filled = sum(bool(word.strip()) for word in answers.columns.get(name, []))
        if 0 < filled < len(answers):
            print(
                f"warning: {name} is filled in {filled:,} of {len(answers):,} rows; a question that has it in some "
                "rows only may lie on both sides of the holdout",
                flush=True,
            )


def _order(
    order: np.ndarray, held: np.ndarray, config: ConfigDict, sources: int
) -> tuple[dict[str, pairs.Split], np.ndarray]:
    """The splits, and their answers sorted by source; order: each answer's source, -1 for none."""
    splits, taken, first = {}, [], 0
    for name, side in zip(views.SPLITS, (~held, held), strict=True):
        sizes = np.bincount(order[side & (order >= 0)], minlength=sources)
        sizes[sizes < 2] = 0  # one QA has no second view
        rows = np.flatnonzero(side & (order >= 0))
        rows = rows[sizes[order[rows]] > 0]
        law = views.Law(config.seed, name, tuple(sizes.tolist()), config.max_qas, config.disjoint_views)
        if len(rows):
            epochs = config.epochs if name == "train" else 1
            splits[name] = pairs.Split(law, first, len(rows) * epochs)
        taken.append(rows[np.argsort(order[rows], kind="stable")])
        first += len(rows)
    return splits, np.concatenate(taken)


def _finished(folder: Place, fingerprint: str) -> bool:
    """Whether DATA is there already; an error where something else is."""
    # A run killed in its first moment leaves no more than a manifest that never got its name.
    nameless = list(folder.glob(f".{_PARTIAL}.*.tmp"))
    if not folder.exists() or (folder.is_dir() and len(list(folder.iterdir())) == len(nameless)):
        for leftover in nameless:
            leftover.unlink(missing_ok=True)
        return False
    whole = (folder / shards.MANIFEST).exists()
    path = folder / (shards.MANIFEST if whole else _PARTIAL)
    if not path.exists():
        raise UserError(f"--out={folder} exists and is not a prepared folder; give another --out")
    try:
        there = json.loads(path.read_text("utf-8"))["fingerprint"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"--out={folder}: its {path.name} is not of prepare; give another --out") from error
    if there != fingerprint:
        raise UserError(
            f"--out={folder} was prepared from other answers, tokenizer or config "
            f"(fingerprint {str(there)[:8]}, now {fingerprint[:8]}); give another --out or remove it"
        )
    print(f"{folder} is {'finished and the same' if whole else 'unfinished: going on'}", flush=True)
    for leftover in (*folder.glob(".*.tmp"), *([folder / _PARTIAL] if whole else [])):
        leftover.unlink(missing_ok=True)
    return whole


def _spell(work: pairs.Work, tokenizer: Tokenizer, answers: qa.Answers) -> None:
    """Tokenises every QA once, leaves the ids where the workers find them, and prints the bytes to come."""
    texts = map(qa.text, answers.columns["question"], answers.columns["answer"])
    spelt = tokens.tokenize(tokenizer, list(texts))
    spelt.save(work.parts)
    size = pairs.estimate(work, spelt)
    free = math.inf if files.remote(work.folder) else shutil.disk_usage(work.folder).free
    way = "as a whole" if spelt.tokenizer else "by joining the ids of its QAs"
    records = " and ".join(f"{s.records:,} {name} pairs" for name, s in work.splits.items())
    print(f"{len(spelt.ids):,} tokens; each view is spelt {way}", flush=True)
    print(f"writing {records}, about {size / 1e6:,.1f} MB, to {work.folder}", flush=True)
    if size > free:
        raise UserError(f"--out={work.folder}: {size / 1e6:,.0f} MB to write and {free / 1e6:,.0f} MB free")


def _say_written(folder: Place, manifest: dict, seconds: float) -> None:
    for name, split in manifest["splits"].items():
        print(
            f"{name}: {split['records']:,} records, {split['tokens'] / split['records'] / 2:.1f} tokens a view; "
            f"to fit, {split['qas_dropped']:,} QAs dropped and {split['views_cut']:,} views cut",
            flush=True,
        )
    print(f"wrote {folder} in {seconds:.1f} s, fingerprint {manifest['fingerprint'][:8]}", flush=True)


def _json(values: dict) -> bytes:
    return (json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


if __name__ == "__main__":
    flags.DEFINE_string("qa", None, "QA files: comma-separated files, folders and globs.")
    flags.DEFINE_string("encoder", "minilm", "The model whose tokenizer spells the views: folder, hub id or minilm.")
    flags.DEFINE_string("out", None, "The folder to write.")
    flags.DEFINE_string("lang", "", "Comma-separated languages to take; all where empty.")
    flags.DEFINE_bool("include_control", False, "Whether rows with value_relevant false make pairs too.")
    flags.DEFINE_integer("workers", 0, "Worker processes; 0 = one a core.", lower_bound=0)
    flags.DEFINE_string(
        "runner", "", f"Write the shards by Apache Beam: {', '.join(pipeline.RUNNERS)}; empty = do not."
    )
    flags.DEFINE_multi_string("runner_option", [], "A flag for Beam, such as --project=P; may be given many times.")
    flags.DEFINE_string("verify", None, "Only check this prepared folder: every byte, every record's crc.")
    CONFIG = config_flags.DEFINE_config_file("config", None, "The run's config, for example configs/lambda1.py.")

    def _main(f: flags.FlagValues) -> None:
        if f.verify is not None:
            return shards.verify(f.verify)
        cli.require(f, "qa", "out")
        prepare(
            f.qa,
            f.encoder,
            f.out,
            configs.complete(CONFIG.value),
            lang=f.lang,
            include_control=f.include_control,
            workers=f.workers,
            runner=f.runner,
            runner_options=f.runner_option,
        )

    cli.run(_main)
