"""export: what torch loads is what jax trained; the same run gives the same bytes; nothing half-made stays."""

import json
import re
import shutil
import socket

import numpy as np
import pytest

from univar_jax import encoder, export, models, weights
from univar_jax.cli import UserError

SIZES = {"vocab_size": 30522, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
KINDS = {
    "bert": SIZES | {"model_type": "bert", "intermediate_size": 48, "max_position_embeddings": 300},
    "nomic_bert": {
        "model_type": "nomic_bert", "vocab_size": 30522, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_inner": 48,
        "n_positions": 700, "rotary_emb_base": 100, "auto_map": {"AutoModel": "zz-somewhere--code.Model"},
    },
    "roberta": SIZES | {"model_type": "roberta", "intermediate_size": 48, "max_position_embeddings": 302},
    "xlm-roberta": SIZES | {"model_type": "xlm-roberta", "intermediate_size": 48, "max_position_embeddings": 302},
    "distilbert": {
        "model_type": "distilbert", "vocab_size": 30522, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48,
        "max_position_embeddings": 300,
    },
    "mpnet": SIZES | {"model_type": "mpnet", "intermediate_size": 48, "max_position_embeddings": 302},
    "modernbert": SIZES | {
        "model_type": "modernbert", "intermediate_size": 48, "max_position_embeddings": 300, "pad_token_id": 0,
        "global_attn_every_n_layers": 2, "local_attention": 16, "local_rope_theta": 100.0,
    },
}  # fmt: skip
POOLED = ("bert", "roberta", "xlm-roberta", "mpnet")  # transformers' own class has a pooler
FACTS = {
    "encoder": "/home/zz-someone/encoder",
    "fingerprint": "f00d",
    "holdout": {"seed": 42, "share": 0.2, "corpora": ["sample"]},
    "config": {"seed": 42, "lr": 1e-4},
    "step": 40,
    "metrics": [{"step": 20, "eval/knn": 0.25}, {"step": 40, "loss": 1.0, "eval/knn": 0.5125}],
}


@pytest.fixture
def torch():
    pytest.importorskip("sentence_transformers", reason="needs torch: pip install 'univar_jax[torch]'")


def base(folder, kind):
    """A small random encoder with MiniLM's tokenizer."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(KINDS[kind]))
    shutil.copyfile(models.folder("minilm") / "tokenizer.json", folder / "tokenizer.json")
    config = models.read_config(folder)
    rng = np.random.default_rng(0)

    def draw(tree):
        if isinstance(tree, dict):
            return {k: draw(v) for k, v in tree.items()}
        return rng.normal(size=tree.shape, scale=0.3).astype(np.float32)

    params = draw(encoder.abstract_params(config))
    pooler = {"pooler.dense.weight": np.eye(32, dtype=np.float32), "pooler.dense.bias": np.zeros(32, np.float32)}
    weights.save(params, config, pooler if kind in POOLED else {}, folder / "model.safetensors")
    return params


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_exported_folder(kind, tmp_path, capsys, torch):
    params = base(tmp_path / "base", kind)
    out = tmp_path / "out"
    export.export_params(params, tmp_path / "base", str(out), FACTS)
    assert "largest difference" in capsys.readouterr().out

    # It is an encoder for this package again, and for plain transformers with nothing missing or made up.
    config = models.read_config(models.folder(str(out)))
    assert weights.digest(weights.load(out, config)) == weights.digest(params)
    from transformers import AutoModel, AutoTokenizer

    _, told = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not any(told.values()), told
    assert AutoTokenizer.from_pretrained(out).model_max_length == config.positions

    # Long texts are cut at the encoder's positions, not at MiniLM's 128 or 256.
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(out), device="cpu")
    assert model.max_seq_length == config.positions == (700 if kind == "nomic_bert" else 300)
    assert model.tokenize(["value " * 800])["input_ids"].shape[1] == config.positions

    univar = json.loads((out / "univar.json").read_text())
    assert univar["holdout"] == FACTS["holdout"] and univar["step"] == 40
    card = (out / "README.md").read_text()
    assert "knn 0.512 (step 40)" in card and "largest difference" in card and "`f00d`" in card
    for name, data in contents(out).items():
        assert b"zz-someone" not in data and str(tmp_path).encode() not in data and b"zz-somewhere" not in data, name


def test_same_again_other_and_equal_bytes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export, "_parity", lambda _: "0")
    params = base(tmp_path / "base", "bert")
    for name in ("first", "second"):
        export.export_params(params, tmp_path / "base", str(tmp_path / name / "model"), FACTS)
    first = contents(tmp_path / "first" / "model")
    assert first == contents(tmp_path / "second" / "model")
    capsys.readouterr()
    export.export_params(params, tmp_path / "base", str(tmp_path / "first" / "model"), FACTS)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="exists and is not this export"):
        export.export_params(params, tmp_path / "base", str(tmp_path / "first" / "model"), FACTS | {"step": 41})
    assert contents(tmp_path / "first" / "model") == first


def test_a_difference_leaves_no_folder(tmp_path, monkeypatch, torch):
    params = base(tmp_path / "base", "bert")
    monkeypatch.setattr(export, "PARITY_LIMIT", 0.0)
    with pytest.raises(UserError, match=r"torch and jax differ by .* nothing was written") as error:
        export.export_params(params, tmp_path / "base", str(tmp_path / "out"), FACTS)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["base"]


def test_without_torch_it_says_so(tmp_path, monkeypatch, capsys):
    params = base(tmp_path / "base", "nomic_bert")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda _: None)
    export.export_params(params, tmp_path / "base", str(tmp_path / "out"), FACTS | {"metrics": []})
    assert "not checked: pip install" in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    assert "not checked: pip install" in card and "| held-out scores in the run | none |" in card


def test_real_minilm_on_real_texts(tmp_path, capsys, torch, monkeypatch):
    def no_network(*_):
        raise AssertionError("the check asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    folder = models.folder("minilm")
    params = weights.load(folder, models.read_config(folder))
    export.export_params(params, folder, str(tmp_path / "out"), FACTS | {"encoder": "minilm"})
    said = capsys.readouterr().out
    assert float(re.search(r"largest difference (\S+) ", said).group(1)) < 1e-5
    assert "base_model: sentence-transformers/all-MiniLM-L6-v2" in (tmp_path / "out" / "README.md").read_text()


def test_the_checks_texts_are_of_all_models_and_languages():
    texts = export.sample_texts(32)
    assert len(set(texts)) == 32 and all(t.startswith("Q: ") and " A: " in t for t in texts)
    assert any(ord(max(t)) > 0x4E00 for t in texts)
