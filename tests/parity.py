"""How far ours is from torch, for tests and README's table: python -m tests.parity [--models=FOLDER,…] [--write]."""

import contextlib
import functools
import hashlib
import io
import itertools
import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tests.test_export import FACTS
from univar_jax import cli, export, files
from univar_jax.cli import UserError
from univar_jax.encoders import encoder, models, modules, weights
from univar_jax.encoders.names import TABLES
from univar_jax.training.loss import contrast

README = Path(__file__).parent.parent / "README.md"

# Largest difference of unit vectors; of gradients by name, relative; of an export that torch has loaded again.
LIMITS = (2e-5, 1e-4, 1e-5)
SEEDS = (0, 1, 2)
SCALE = 50.0  # the paper's
BERT = {
    "vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 40, "initializer_range": 0.3,  # wide, so that no layer is nearly the identity
}  # fmt: skip
MODERN = BERT | {
    "num_hidden_layers": 5, "global_attn_every_n_layers": 2, "local_attention": 8, "global_rope_theta": 500.0,
    "local_rope_theta": 20.0, "pad_token_id": 0,
} | dict.fromkeys(("cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id"), 1)  # fmt: skip
# Small random encoders: config.json's model_type, and after a stroke what is special; /cls is the pooling.
CASES = {
    "bert": BERT,
    "bert/cls": BERT,
    "bert/gelu_new": BERT | {"hidden_act": "gelu_new"},
    "bert/relu": BERT | {"hidden_act": "relu", "layer_norm_eps": 1e-5},
    "roberta": BERT | {"max_position_embeddings": 44, "pad_token_id": 3, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "xlm-roberta": BERT | {"max_position_embeddings": 42, "type_vocab_size": 1},
    "distilbert": {
        "vocab_size": 120, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 40,
        "initializer_range": 0.3,
    },
    "mpnet": BERT | {"max_position_embeddings": 42},
    "nomic_bert": BERT | {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
    "nomic_bert/dynamic": BERT | {
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 50.0, "factor": 2.0}, "max_position_embeddings": 16,
        "n_positions": 40,
    },
    "modernbert": MODERN,
    "modernbert/cls": MODERN,
    "modernbert/layer_types": MODERN | {
        "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"], "local_attention": 5,
        "hidden_activation": "silu",
    },
}  # fmt: skip
# Lengths of the texts of three rows of 64 tokens: one full (with a text of all 40 positions), one with padding left
# over, one with nothing but padding; on both sides of the 16 at which dynamic angles begin to change.
LENGTHS = ((7, 40, 1, 16), (17, 3, 29, 11), ())
ROW = 64


def draw(seed, lengths=LENGTHS):
    """Random texts by rows; no id below 4, where torch has its own ways with padding's."""
    rng = np.random.default_rng(seed)
    return [[rng.integers(4, BERT["vocab_size"], n).astype(np.int32) for n in row] for row in lengths]


def pack(texts, width=ROW):
    """Texts by rows → ids_rt, segment_rt, position_rt; random ids at padding too."""
    ids_rt = np.concatenate(draw(99, [[width]] * len(texts)))
    segment_rt, position_rt = np.zeros_like(ids_rt), np.zeros_like(ids_rt)
    for row, members in enumerate(texts):
        start = 0
        for number, ids in enumerate(members, 1):
            place = slice(start, start := start + len(ids))
            ids_rt[row, place], segment_rt[row, place], position_rt[row, place] = ids, number, np.arange(len(ids))
    return ids_rt, segment_rt, position_rt


def live(z_rsd, texts):
    """The vectors of segments that have a text, in the texts' order."""
    return jnp.concatenate([z_rsd[row, : len(members)] for row, members in enumerate(texts)])


def real(folder, shortest, longest, count=8):
    """Texts of the sample, joined and cut to lengths in tokens between two, by rows as long as the longest."""
    sample, tokenizer, rows = export.sample_texts(150), models.tokenizer(folder), []
    for start, length in enumerate(np.geomspace(longest, shortest, count).round().astype(int)):
        *ids, last = tokenizer.encode("\n".join(sample[start:] + sample[:start])).ids
        assert len(ids) >= length, f"the sample has only {len(ids)} tokens"
        row = next((row for row in rows if sum(map(len, row)) + length <= longest), None)
        if row is None:
            rows.append(row := [])
        row.append(np.array([*ids[: length - 1], last], np.int32))
    return rows


def random_model(case, seed, folder, **values):
    """transformers' own module with random weights, saved for ours to read."""
    import torch
    from transformers import AutoConfig, AutoModel, logging

    logging.disable_progress_bar()
    torch.manual_seed(seed)
    model = AutoModel.from_config(AutoConfig.for_model(case.split("/")[0], **CASES[case] | values)).eval()
    with torch.no_grad():
        for x in model.parameters():  # biases and norms start at 0 and 1 and would prove nothing
            if x.ndim == 1:
                x.add_(0.3 * torch.randn_like(x))
    model.save_pretrained(folder)
    if case.endswith("/cls"):
        modules.write(Path(folder), "cls", model.config.hidden_size, 40, "0")
    return model


def real_model(folder):
    """transformers' module of a folder, in float32."""
    import torch
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def torch_vectors(model, texts, pooling="mean"):
    """Each text alone: mean of the last states or the first token's, to unit norm."""
    import torch

    pooled = []
    for ids in itertools.chain(*texts):
        if hasattr(model, "rotary_emb"):  # dynamic angles are kept from longer texts before: a fresh one each time
            model.rotary_emb = type(model.rotary_emb)(model.config)
        hidden_td = model(torch.tensor(ids[None]).long()).last_hidden_state[0]
        pooled.append(hidden_td[0] if pooling == "cls" else hidden_td.mean(0))
    return torch.nn.functional.normalize(torch.stack(pooled), dim=-1)


def torch_gradient(model, texts, config):
    """Of the contrastive loss, by our names; put in the place of the model's weights."""
    import torch

    z_nd = torch_vectors(model, texts, config.pooling)
    torch.nn.functional.cross_entropy(SCALE * z_nd[::2] @ z_nd[1::2].T, torch.arange(len(z_nd) // 2)).backward()
    with torch.no_grad():  # the gradient in the weights' place, so that our own table reads the names
        for x in model.parameters():
            x.copy_(torch.zeros_like(x) if x.grad is None else x.grad)
    with tempfile.TemporaryDirectory() as room:
        model.save_pretrained(room)
        return weights.flatten(weights.load(room, config))


apply = jax.jit(encoder.apply, static_argnums=(0, 5))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _gradient(graph, params, rows, counts):
    def loss(params):
        z_nd = live(encoder.apply(graph, params, *rows, max(counts)), [range(n) for n in counts])
        return contrast(z_nd[::2], z_nd[1::2], jnp.arange(len(z_nd) // 2), SCALE, spread="dense", mesh=None)[0]

    return jax.grad(loss)(params)


def vectors_apart(config, params, model, texts, width=ROW):
    """Packed rows against each text alone in torch: the largest difference of a coordinate."""
    import torch

    z_rsd = apply(encoder.build(config), params, *pack(texts, width), max(map(len, texts)))
    with torch.no_grad():
        return float(np.abs(torch_vectors(model, texts, config.pooling).numpy() - live(z_rsd, texts)).max())


def gradients_apart(config, params, model, texts, width=ROW):
    """{name: largest difference over largest coordinate, of a stack in its worst layer}; texts are anchor, key, …"""
    ours = weights.flatten(_gradient(encoder.build(config), params, pack(texts, width), tuple(map(len, texts))))
    theirs = torch_gradient(model, texts, config)
    apart = {}
    for name, x in ours.items():
        axes = tuple(range(name.startswith(("blocks/", "later_")), x.ndim))
        apart[name] = float((np.abs(x - theirs[name]).max(axes) / np.abs(theirs[name]).max(axes)).max())
    return apart


def exported(folder, params, out):
    """Exports, and tells how far torch is from ours on the sample and whether the weights read again are the same."""
    out, texts = Path(out), export.sample_texts(32)
    with contextlib.redirect_stdout(io.StringIO()):
        export.export_params(params, folder, str(out), FACTS)
    apart = np.abs(export.embed_torch(out, texts) - export.embed_jax(folder, texts, params)).max()
    return float(apart), weights.digest(weights.load(out, models.read_config(out))) == weights.digest(params)


def whole(folder, room):
    """The folder, or where it has no tokenizer one in `room` with MiniLM's and the same files beside it."""
    folder, copy = Path(folder).resolve(), Path(room) / "whole"
    if (folder / "tokenizer.json").exists():
        return folder
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).symlink_to(path)
    shutil.copy(models.folder("minilm") / "tokenizer.json", copy)
    return copy


START, END = "<!-- parity: python -m tests.parity --write -->", "<!-- /parity -->"
HEAD = """\
| architecture | imported from | max difference to torch | gradients | exported and reloaded |
|---|---|---|---|---|"""


def line(architecture, origin, vectors, gradients, reloaded, same):
    """A row of the table."""
    kept = "same" if same else "OTHER"
    return f"| {architecture} | {origin} | {vectors:.1e} | {gradients:.1e} | {kept} bytes, {reloaded:.1e} |"


def random_row(case, seeds=SEEDS):
    """A small random encoder of several seeds: the worst of each."""
    *apart, same = zip(*(random_measures(case, seed) for seed in seeds), strict=True)
    return line(case, f"random, {len(seeds)} seeds", *map(np.max, apart), all(same))  # np's max: a NaN stays one


def random_measures(case, seed):
    """Of one seed, what stands in a row."""
    with tempfile.TemporaryDirectory() as room:
        small, large = Path(room) / "small", Path(room) / "large"
        model = random_model(case, seed, small)
        config = models.read_config(small)
        params, texts = weights.load(small, config), draw(seed)
        vectors = vectors_apart(config, params, model, texts)
        gradients = np.max([*gradients_apart(config, params, model, texts).values()])
        # The export's check is on real texts: they want MiniLM's vocabulary and some length.
        random_model(case, seed, large, vocab_size=30522, max_position_embeddings=302)
        large = whole(large, room)
        return vectors, gradients, *exported(large, weights.load(large, models.read_config(large)), f"{room}/out")


def real_row(model):
    """A real encoder on real texts of 10 to 2,000 tokens (at most its positions); gradients of 10 to 128."""
    with tempfile.TemporaryDirectory() as room:
        folder = whole(models.folder(model), room)
        config = models.read_config(folder)
        params, theirs = weights.load(folder, config), real_model(folder)
        longest = min(2000, config.positions)
        vectors = vectors_apart(config, params, theirs, real(folder, 10, longest), longest)
        gradients = np.max([*gradients_apart(config, params, theirs, real(folder, 10, 128), 128).values()])
        return line(config.architecture, origin(model), vectors, gradients, *exported(folder, params, f"{room}/out"))


def origin(model):
    """A folder's own name and the first digits of its weights' sha256."""
    folder = Path(models.folder(model))
    name = "all-MiniLM-L6-v2" if model == "minilm" else folder.name
    with open(folder / "model.safetensors", "rb") as file:
        return f"{name} ({hashlib.file_digest(file, 'sha256').hexdigest()[:8]})"


def around(path):
    """What a file has before and after the table; UserError where its two markers are not there once each."""
    before, _, rest = path.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not end or START in rest or END in before + after:
        raise UserError(f"{path} needs {START} and {END} once each, in this order; the table goes between them")
    return before, after


def put(path, table):
    """Replaces the table between a file's two markers."""
    before, after = around(path)
    files.write(path, f"{before}{START}\n{table}\n{END}{after}".encode())


def parity(real_models, write):
    """The command: prints the table row by row, and puts it into README.md where asked."""
    kinds = {model: models.read_config(models.folder(model)).architecture for model in ["minilm", *real_models]}
    if write:
        around(README)  # said before the minutes of measuring, not after
    lines = [HEAD]
    print(HEAD, flush=True)
    for architecture in TABLES:
        measures = [functools.partial(random_row, architecture)]
        measures += [functools.partial(real_row, model) for model, kind in kinds.items() if kind == architecture]
        for measure in measures:
            lines.append(measure())
            print(lines[-1], flush=True)
    if write:
        put(README, "\n".join(lines))


if __name__ == "__main__":
    from absl import flags

    flags.DEFINE_list("models", [], "Folders of real encoders beside MiniLM, each a row of its own.")
    flags.DEFINE_bool("write", False, "Whether the table in README.md is replaced by this one.")
    cli.run(lambda f: parity(f.models, f.write))
