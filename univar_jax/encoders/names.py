"""The names of weights: one table per architecture, Hugging Face ⇄ ours, read in both directions by `weights`.

Ours: (axes in the file, names in the file). Axes: v vocabulary, p rows of the position table, y types, b buckets,
h heads, d model width, f feed-forward, g = 2f, a = heads · head width, c = 3a. {l} is the layer: such leaves are
stacked, axis l first; those called later_ begin with the second layer. Several names are parts that we join along the
file's first axis. A kernel is a torch Linear's weight, [out, in], and ours is [in, out]. Of a gated feed-forward's two
halves the first is the one that goes through the activation.
"""


def _norm(ours: str, theirs: str) -> dict:
    return {f"{ours}/scale": ("d", [f"{theirs}.weight"]), f"{ours}/bias": ("d", [f"{theirs}.bias"])}


def _linear(ours: str, axes: str, *theirs: str) -> dict:
    kernel, bias = (axes, [f"{name}.weight" for name in theirs]), (axes[0], [f"{name}.bias" for name in theirs])
    return {f"{ours}/kernel": kernel, f"{ours}/bias": bias}


_EMBED = {
    "embed/words/embedding": ("vd", ["embeddings.word_embeddings.weight"]),
    "embed/positions/embedding": ("pd", ["embeddings.position_embeddings.weight"]),
    **_norm("embed/norm", "embeddings.LayerNorm"),
}
_TYPES = {"embed/types/embedding": ("yd", ["embeddings.token_type_embeddings.weight"])}
_BERT = "encoder.layer.{l}."
_BERT_MLP = {
    **_linear("blocks/mlp/up", "fd", _BERT + "intermediate.dense"),
    **_linear("blocks/mlp/down", "df", _BERT + "output.dense"),
    **_norm("blocks/mlp_norm", _BERT + "output.LayerNorm"),
}
_DISTIL = "transformer.layer.{l}."
_LAYERS = "layers.{l}."
_NOMIC = "encoder." + _LAYERS

BERT = {
    **_EMBED,
    **_TYPES,
    **_linear("blocks/attention/qkv", "ad", *(_BERT + f"attention.self.{part}" for part in ("query", "key", "value"))),
    **_linear("blocks/attention/out", "da", _BERT + "attention.output.dense"),
    **_norm("blocks/attention_norm", _BERT + "attention.output.LayerNorm"),
    **_BERT_MLP,
}
TABLES = {
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "distilbert": {
        **_EMBED,
        **_linear("blocks/attention/qkv", "ad", *(_DISTIL + f"attention.{part}_lin" for part in "qkv")),
        **_linear("blocks/attention/out", "da", _DISTIL + "attention.out_lin"),
        **_norm("blocks/attention_norm", _DISTIL + "sa_layer_norm"),
        **_linear("blocks/mlp/up", "fd", _DISTIL + "ffn.lin1"),
        **_linear("blocks/mlp/down", "df", _DISTIL + "ffn.lin2"),
        **_norm("blocks/mlp_norm", _DISTIL + "output_layer_norm"),
    },
    "mpnet": {
        **_EMBED,
        "relative/embedding": ("bh", ["encoder.relative_attention_bias.weight"]),
        **_linear("blocks/attention/qkv", "ad", *(_BERT + f"attention.attn.{part}" for part in "qkv")),
        **_linear("blocks/attention/out", "da", _BERT + "attention.attn.o"),
        **_norm("blocks/attention_norm", _BERT + "attention.LayerNorm"),
        **_BERT_MLP,
    },
    "nomic_bert": {
        "embed/words/embedding": ("vd", ["embeddings.word_embeddings.weight"]),
        **_TYPES,
        **_norm("embed/norm", "emb_ln"),
        "blocks/attention/qkv/kernel": ("cd", [_NOMIC + "attn.Wqkv.weight"]),
        "blocks/attention/out/kernel": ("da", [_NOMIC + "attn.out_proj.weight"]),
        **_norm("blocks/attention_norm", _NOMIC + "norm1"),
        "blocks/mlp/up/kernel": ("fd", [_NOMIC + "mlp.fc12.weight", _NOMIC + "mlp.fc11.weight"]),
        "blocks/mlp/down/kernel": ("df", [_NOMIC + "mlp.fc2.weight"]),
        **_norm("blocks/mlp_norm", _NOMIC + "norm2"),
    },
    "modernbert": {
        "embed/words/embedding": ("vd", ["embeddings.tok_embeddings.weight"]),
        "embed/norm/scale": ("d", ["embeddings.norm.weight"]),
        "later_attention_norm/scale": ("d", [_LAYERS + "attn_norm.weight"]),
        "blocks/attention/qkv/kernel": ("cd", [_LAYERS + "attn.Wqkv.weight"]),
        "blocks/attention/out/kernel": ("da", [_LAYERS + "attn.Wo.weight"]),
        "blocks/mlp_norm/scale": ("d", [_LAYERS + "mlp_norm.weight"]),
        "blocks/mlp/up/kernel": ("gd", [_LAYERS + "mlp.Wi.weight"]),
        "blocks/mlp/down/kernel": ("df", [_LAYERS + "mlp.Wo.weight"]),
        "final_norm/scale": ("d", ["final_norm.weight"]),
    },
}

# A model with a head puts the encoder's names under one of these.
PREFIXES = ("bert.", "roberta.", "distilbert.", "mpnet.", "nomic_bert.", "model.")
# What mean and cls pooling never read (poolers, buffers, the heads of masked words, classes and answers): not trained,
# carried from the base to the export as it is.
POOLER = ("pooler.dense.weight", "pooler.dense.bias")
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
_HEADS = ("classifier.", "qa_outputs.")
CARRIED = {
    "bert": ("pooler.", *_BUFFERS, "cls.", *_HEADS),
    "roberta": ("pooler.", *_BUFFERS, "lm_head.", *_HEADS),
    "distilbert": (*_BUFFERS, "vocab_transform.", "vocab_layer_norm.", "vocab_projector.", "pre_classifier.", *_HEADS),
    "mpnet": ("pooler.", *_BUFFERS, "lm_head.", *_HEADS),
    "nomic_bert": ("pooler.", *_BUFFERS, "rotary_emb.", "cls.", "lm_head.", "head.", *_HEADS),
    "modernbert": ("rotary_emb.", "head.", "decoder.", *_HEADS),
}
CARRIED["xlm-roberta"] = CARRIED["roberta"]
# Architectures whose class in transformers makes a pooler of its own where the file has none, at random and with a
# warning; the export of such a base has one of zeros.
POOLED = ("bert", "roberta", "xlm-roberta", "mpnet")
