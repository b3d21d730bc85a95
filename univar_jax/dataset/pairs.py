"""Pairs made from the law and the tokens, and written as shards by worker processes."""

import dataclasses
import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from univar_jax import files
from univar_jax.cli import UserError
from univar_jax.dataset import shards
from univar_jax.dataset.views import Law
from univar_jax.encoders.tokens import Tokens
from univar_jax.files import Place

# Name of the split, number of the shard in it, and the shard's file.
Job = tuple[str, int, str]
_SAMPLED = 300  # pairs drawn for the estimate of the bytes


@dataclasses.dataclass(frozen=True)
class Split:
    """What the pairs of one split are made of.

    Attributes:
      law: draws QAs counted inside their source.
      first: where the split's QAs, sorted by source, begin among the tokenised ones.
      records: pairs to write.
    """

    law: Law
    first: int
    records: int


@dataclasses.dataclass(frozen=True)
class Work:
    """All that any worker needs to write any shard.

    Attributes:
      folder: where the shards go.
      parts: a folder for the tokens and the facts of finished shards while the work lasts.
      splits: by name.
      sources: the sources' names.
      ids_dtype: of the token ids.
      max_tokens: cap of a view.
    """

    folder: Place
    parts: Place
    splits: dict[str, Split]
    sources: list[str]
    ids_dtype: str
    max_tokens: int


def make(work: Work, tokens: Tokens, split: str, records: Iterable[int]) -> Iterator[tuple[shards.Pair, int, int]]:
    """Each record's pair, with the QAs that its views had to drop and the views that had to be cut."""
    law, first = work.splits[split].law, work.splits[split].first
    starts = first + np.concatenate([[0], np.cumsum(law.sizes)])
    for record in records:
        source, *sides = law.pair(record)
        views = [tokens.view([int(starts[source]) + q for q in side], work.max_tokens) for side in sides]
        dropped = sum(len(side) - max(kept, 1) for side, (_, kept) in zip(sides, views, strict=True))
        cut = sum(kept == 0 for _, kept in views)
        yield shards.Pair(views[0][0], views[1][0], source), dropped, cut


def estimate(work: Work, tokens: Tokens) -> float:
    """Bytes of the shards to come, from the mean of some pairs."""
    total = 0.0
    for name, split in work.splits.items():
        sample = range(0, split.records, max(1, split.records // _SAMPLED))
        sizes = [len(pair.anchor) + len(pair.key) for pair, _, _ in make(work, tokens, name, sample)]
        # 100 bytes: the framing, the names of the features and the entry of the index.
        total += split.records * (np.mean(sizes) * np.dtype(work.ids_dtype).itemsize + 100)
    return total


def write(work: Work, make_shards: Callable[[Work, list[Job]], list[dict]]) -> dict[str, dict]:
    """Writes every shard that is not there yet, and each split's index.

    Args:
      work: `work.parts` holds the saved tokens.
      make_shards: calls `write_shard` for all jobs somewhere; what it gave, in their order.

    Returns:
      The manifest's entry of each split: records, shards, index, and the counts of dropped QAs and cut views.
    """
    jobs = []
    for name, split in work.splits.items():
        count = -(-split.records // shards.PER_SHARD)
        jobs += [(name, k, shards.file_name(name, k, count)) for k in range(count)]
    facts = make_shards(work, jobs)
    by_split = {name: [f for f, job in zip(facts, jobs, strict=True) if job[0] == name] for name in work.splits}
    return {name: _entry(work, name, facts) for name, facts in by_split.items()}


def by_processes(work: Work, jobs: list[Job], workers: int) -> list[dict]:
    """Makes shards in so many processes of this machine.

    Raises:
      UserError: a worker was killed.
    """
    # A fork would copy the tokenizer's threads mid-air.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(min(workers, len(jobs)), context, _start, (work,)) as pool:
            return list(pool.map(_work_on, jobs))
    except BrokenProcessPool as error:
        raise UserError("a worker was killed; run the same command again, finished shards stay") from error


def _entry(work: Work, split: str, facts: list[dict]) -> dict:
    index = b"".join((work.parts / f"{f['file']}.index").read_bytes() for f in facts)
    name = f"index-{split}.bin"
    files.write(work.folder / name, index)
    totals = {key: sum(f.pop(key) for f in facts) for key in ("qas_dropped", "views_cut", "tokens")}
    records = sum(f["records"] for f in facts)
    index_entry = {"file": name, "sha256": hashlib.sha256(index).hexdigest()}
    return {"records": records, **totals, "index": index_entry, "shards": facts}


# What a worker process holds: the work and its tokens.
_worker: tuple[Work, Tokens]


def _start(work: Work) -> None:
    global _worker
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = work, Tokens.load(work.parts)


def _end_with_parent() -> None:
    # A killed parent's workers would wait for their next shard for ever, or write what its successor writes.
    multiprocessing.parent_process().join()
    os._exit(1)


def _work_on(job: Job) -> dict:
    return write_shard(*_worker, job)


def write_shard(work: Work, tokens: Tokens, job: Job) -> dict:
    """Writes one shard, or finds it whole; its facts for the manifest.

    A function of work and job: whichever machine calls it, and however often, the bytes are the same.
    """
    split, number, name = job
    path, facts_path, index_path = work.folder / name, work.parts / f"{name}.json", work.parts / f"{name}.index"
    if all(p.exists() for p in (path, facts_path, index_path)):
        facts = json.loads(facts_path.read_text())
        if files.hash_of(path) == facts["sha256"]:
            return facts
    start = number * shards.PER_SHARD
    records = range(start, min(start + shards.PER_SHARD, work.splits[split].records))
    facts = {"file": name, "records": len(records), "qas_dropped": 0, "views_cut": 0, "tokens": 0}

    def pairs() -> Iterator[shards.Pair]:
        for pair, dropped, cut in make(work, tokens, split, records):
            facts["qas_dropped"] += dropped
            facts["views_cut"] += cut
            facts["tokens"] += len(pair.anchor) + len(pair.key)
            yield pair

    index, written = shards.write(path, pairs(), shards.features(np.dtype(work.ids_dtype), work.sources))
    facts |= written
    files.write(index_path, index.tobytes())
    files.write(facts_path, json.dumps(facts).encode())
    return facts
