"""One way to train or to embed, as a process of its own that does one step whenever its standard input says so.

Every way has the same pairs of views, the same start (MiniLM), float32, no dropout, the same batch, scale and cap, and
AdamW; what differs is how views become rows, and who computes. Each answers with one JSON line a step.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

SCALE, LR, CHUNK = 50.0, 1e-5, 32
TRAIN = {
    "ours": "univar_jax, packed rows",
    "longest": "sentence-transformers, MultipleNegativesRankingLoss",
    "cached": "sentence-transformers, CachedMultipleNegativesRankingLoss",
    "maximum": "the original's way: torch, padded to the cap",
}
EMBED = {"ours": "univar_jax.encoders.encode", "longest": "SentenceTransformer.encode"}


class Signals:
    """Waits for the parent before each step, and tells what the step took."""

    def __init__(self) -> None:
        # Progress bars and warnings of the libraries must not mix with the answers.
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._began = 0.0

    def wait(self) -> None:
        if not sys.stdin.readline():
            raise SystemExit(0)
        self._began = time.perf_counter()

    def tell(self, **facts: object) -> None:
        seconds = time.perf_counter() - self._began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "peak": peak, **facts}), file=self._answers, flush=True)


def read(work: Path) -> dict:
    return json.loads((work / "work.json").read_text())


# -- training ----------------------------------------------------------------------------------------------------


def train_ours(work: Path, signals: Signals) -> None:
    import jax
    from ml_collections import ConfigDict

    from univar_jax.config import complete
    from univar_jax.dataset import shards
    from univar_jax.encoders import encoder, mesh, models, packing, weights
    from univar_jax.training import batches, programs, step

    programs.keep_memory()
    facts = read(work)
    config = complete(ConfigDict(facts["config"]))
    records = Chosen(shards.Shards(Path(facts["data"]), shards.read_manifest(facts["data"]), "train"), facts["records"])
    devices = mesh.make(0, 1)
    steps = len(facts["records"]) // config.pairs
    plan = packing.plan(records.lengths(), config.pairs, steps, programs.layout(config, devices))
    folder = models.folder("minilm")
    graph = encoder.build(models.read_config(folder))
    state = step.init(config, weights.load(folder, models.read_config(folder)))
    state = jax.device_put(state, mesh.state(devices, state))
    programs.cache()
    updates = programs.compile_all(graph, config, plan, devices, state)
    feed = batches.feed(records, range(steps), config.pairs, plan, devices)
    for n in range(steps):
        signals.wait()
        state, metrics = updates[plan.shape_n[n]](state, next(feed))
        loss = float(metrics["loss"])
        jax.block_until_ready(state)
        shape = plan.shapes[plan.shape_n[n]]
        signals.tell(loss=loss, rows=[[g.rows, g.tokens] for g in shape])


class Chosen:
    """Some of a split's records, numbered from 0."""

    def __init__(self, shards: object, records: list[int]) -> None:
        self._shards, self._records = shards, records

    def read(self, i: int) -> object:
        return self._shards.read(self._records[i])

    def lengths(self) -> np.ndarray:
        return self._shards.lengths()[self._records]


def train_longest(work: Path, signals: Signals, cached: bool = False) -> None:
    import torch
    import transformers
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses

    facts = read(work)
    pairs = facts["config"]["pairs"]
    model = sentence_transformer(facts)
    kind = losses.CachedMultipleNegativesRankingLoss if cached else losses.MultipleNegativesRankingLoss
    loss = kind(model, scale=SCALE, **({"mini_batch_size": CHUNK} if cached else {}))
    seen = []
    loss.register_forward_hook(lambda module, given, value: seen.append(float(value)))
    rows = []
    model[0].register_forward_pre_hook(lambda module, given: rows.append(list(given[0]["input_ids"].shape)))

    class Steps(transformers.TrainerCallback):
        def on_train_begin(self, *_: object, **__: object) -> None:
            signals.wait()

        def on_step_end(self, *_: object, **__: object) -> None:
            # The cached form runs each text twice, once without gradients: its slots are counted once.
            signals.tell(loss=seen[-1], rows=rows[: len(rows) // 2] if cached else list(rows))
            rows.clear()
            signals.wait()

    class InOrder(SentenceTransformerTrainer):
        def get_train_dataloader(self) -> torch.utils.data.DataLoader:
            loader = torch.utils.data.DataLoader(
                self.train_dataset, batch_size=pairs, collate_fn=self.data_collator, drop_last=True
            )
            return self.accelerator.prepare(loader)

    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(work / "trainer"),
        per_device_train_batch_size=pairs,
        num_train_epochs=1,
        learning_rate=LR,
        max_grad_norm=1.0,
        weight_decay=0.01,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    texts = read_texts(work)
    data = Dataset.from_dict({"anchor": [a for a, _ in texts], "positive": [k for _, k in texts]})
    InOrder(model=model, args=arguments, train_dataset=data, loss=loss, callbacks=[Steps()]).train()


def train_maximum(work: Path, signals: Signals) -> None:
    import torch
    import transformers

    facts = read(work)
    cap, pairs = facts["config"]["max_tokens"], facts["config"]["pairs"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.AutoModel.from_pretrained(
        facts["minilm"], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, add_pooling_layer=False
    ).to(device)
    model.train()
    tokenizer = transformers.AutoTokenizer.from_pretrained(facts["minilm"])
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) == wide] for wide in (True, False))
    adam = torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], lr=LR, weight_decay=0.01)

    def encode(texts: list[str]) -> torch.Tensor:
        given = tokenizer(texts, padding="max_length", truncation=True, max_length=cap, return_tensors="pt").to(device)
        hidden = model(**given).last_hidden_state
        mask = given["attention_mask"][..., None]
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)

    texts = read_texts(work)
    for start in range(0, len(texts) - pairs + 1, pairs):
        signals.wait()
        some = texts[start : start + pairs]
        anchor, key = encode([a for a, _ in some]), encode([k for _, k in some])
        loss = torch.nn.functional.cross_entropy(SCALE * anchor @ key.T, torch.arange(pairs, device=device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        signals.tell(loss=float(loss), rows=[[2 * pairs, cap]])


# -- embedding ---------------------------------------------------------------------------------------------------


def embed_ours(work: Path, signals: Signals) -> None:
    from univar_jax.encoders import encode, encoder, mesh, models, tokens, weights
    from univar_jax.training import programs

    programs.keep_memory()
    facts = read(work)
    folder = models.folder("minilm")
    config = models.read_config(folder)
    params, tokenizer = weights.load(folder, config), models.tokenizer(folder)
    embed = encode.embedder(encoder.build(config), mesh.make(0, 1))
    while True:
        signals.wait()
        spelt = tokens.tokenize(tokenizer, facts["texts"])
        z_nd = embed(params, [spelt.view([i], facts["cap"])[0] for i in range(len(facts["texts"]))])
        np.save(work / "ours.npy", z_nd)
        signals.tell()


def embed_longest(work: Path, signals: Signals) -> None:
    facts = read(work)
    model = sentence_transformer(facts)
    while True:
        signals.wait()
        z_nd = model.encode(facts["texts"], show_progress_bar=False, normalize_embeddings=True)
        np.save(work / "longest.npy", z_nd)
        signals.tell()


def sentence_transformer(facts: dict) -> object:
    """MiniLM with the benchmark's cap and without dropout."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(facts["minilm"], local_files_only=True)
    model.max_seq_length = facts["config"]["max_tokens"] if "config" in facts else facts["cap"]
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model[0].auto_model.config.attention_probs_dropout_prob = 0.0
    return model


def read_texts(work: Path) -> list[tuple[str, str]]:
    return json.loads((work / "texts.json").read_text())


_WAYS: dict[tuple[str, str], Callable[[Path, Signals], None]] = {
    ("train", "ours"): train_ours,
    ("train", "longest"): train_longest,
    ("train", "cached"): lambda work, signals: train_longest(work, signals, cached=True),
    ("train", "maximum"): train_maximum,
    ("embed", "ours"): embed_ours,
    ("embed", "longest"): embed_longest,
}


def lock_step(what: str, ways: list[str], work: Path, steps: int) -> dict[str, list[dict]]:
    """Runs the ways step by step in turn, each in a process of its own; what each said of each step."""
    import subprocess

    def start(way: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "tests.benchmarks.ways", what, way, str(work)]
        log = open(work / f"{what}-{way}.log", "w")  # noqa: SIM115 (the process has it)
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)

    processes = {way: start(way) for way in ways}
    said: dict[str, list[dict]] = {way: [] for way in ways}
    for n in range(steps):
        for way, process in processes.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"{what} by {way} ended: see {work / f'{what}-{way}.log'}")
            said[way].append(json.loads(line))
            print(f"{what} step {n} {way}: {said[way][-1]['seconds']:.2f} s", file=sys.stderr, flush=True)
    for process in processes.values():
        process.kill()
        process.wait()
    return said


def roundtrip(tokenizer: object, views: list[np.ndarray]) -> Iterator[str | None]:
    """Texts that every tokenizer of this vocabulary spells as these ids; None where there is none such."""
    texts = tokenizer.decode_batch([v[1:-1].tolist() for v in views], skip_special_tokens=False)
    for view, text, again in zip(views, texts, tokenizer.encode_batch(texts), strict=True):
        yield text if again.ids == view.tolist() else None


if __name__ == "__main__":
    _WAYS[sys.argv[1], sys.argv[2]](Path(sys.argv[3]), Signals())
