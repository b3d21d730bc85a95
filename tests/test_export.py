"""export: what torch loads is what jax trained; the same run gives the same bytes; nothing half-made stays."""

import json
import re
import shutil
import socket

import numpy as np
import pytest

from univar_jax import export
from univar_jax.cli import UserError
from univar_jax.encoders import encoder, models, weights
from univar_jax.training.loss import leading

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
    weights.save(params, config, pooler if kind in POOLED else {}, folder)
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
    monkeypatch.setattr(export, "_parity", lambda *_: {})
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


def test_cls_pooling_goes_in_and_out(tmp_path, capsys, torch):
    params = base(tmp_path / "base", "bert")
    (tmp_path / "base" / "1_Pooling").mkdir()
    (tmp_path / "base" / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    export.export_params(params, tmp_path / "base", str(tmp_path / "out"), FACTS)  # its parity is the proof
    assert "torch against jax on 32 texts: largest difference" in capsys.readouterr().out
    pooling = json.loads((tmp_path / "out" / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_cls_token"] and not pooling["pooling_mode_mean_tokens"]
    assert models.read_config(tmp_path / "out").pooling == "cls"
    assert "the first token's state, then unit norm" in (tmp_path / "out" / "README.md").read_text()


def test_bfloat16_is_half_the_file_and_says_what_it_cost(tmp_path, capsys, torch):
    params = base(tmp_path / "base", "nomic_bert")
    sizes = []
    for dtype in ("float32", "bfloat16"):
        export.export_params(params, tmp_path / "base", str(tmp_path / dtype), FACTS, dtype)
        sizes.append((tmp_path / dtype / "model.safetensors").stat().st_size)
    assert sizes[1] < 0.51 * sizes[0]
    said = capsys.readouterr().out
    cosine = float(re.search(r"weights rounded to bfloat16 .*: smallest cosine (\S+)", said).group(1))
    assert 0.99 < cosine < 1
    assert json.loads((tmp_path / "bfloat16" / "config.json").read_text())["dtype"] == "bfloat16"
    from transformers import AutoModel

    model, told = AutoModel.from_pretrained(tmp_path / "bfloat16", output_loading_info=True)
    assert str(model.dtype) == "torch.bfloat16" and not any(told.values())
    with pytest.raises(UserError, match="exists and is not this export"):
        export.export_params(params, tmp_path / "base", str(tmp_path / "bfloat16"), FACTS)


@pytest.mark.parametrize("kind", POOLED)
def test_a_base_without_a_pooler_gets_one_of_zeros(kind, tmp_path, capsys, torch):
    params = base(tmp_path / "base", kind)
    weights.save(params, models.read_config(tmp_path / "base"), {}, tmp_path / "base")
    export.export_params(params, tmp_path / "base", str(tmp_path / "out"), FACTS)
    assert "the base has no pooler, zeros stand for pooler.dense.weight" in capsys.readouterr().out
    from transformers import AutoModel

    model, told = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told.values()) and not model.pooler.dense.weight.any()


def test_what_is_carried_is_told_and_as_it_was(tmp_path, capsys, torch):
    params = base(tmp_path / "base", "bert")
    head = {"cls.predictions.bias": np.arange(5, dtype=np.float16), "embeddings.position_ids": np.arange(300)[None]}
    carried = weights.carried(tmp_path / "base", models.read_config(tmp_path / "base")) | head
    weights.save(params, models.read_config(tmp_path / "base"), carried, tmp_path / "base")
    export.export_params(params, tmp_path / "base", str(tmp_path / "out"), FACTS)
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("carried as they are"))
    assert all(name in line for name in carried)
    again = weights.carried(tmp_path / "out", models.read_config(tmp_path / "out"))
    assert all(np.array_equal(again[k], x) and again[k].dtype == x.dtype for k, x in carried.items())


def test_vectors_of_a_matryoshka_run_are_cut_in_torch_as_the_card_says(tmp_path, torch):
    params = base(tmp_path / "base", "bert")
    facts = FACTS | {"config": FACTS["config"] | {"matryoshka_dims": [16, 8]}}
    export.export_params(params, tmp_path / "base", str(tmp_path / "out"), facts)
    call = "model.encode(texts, truncate_dim=8, normalize_embeddings=True)"
    assert call in (tmp_path / "out" / "README.md").read_text()
    from sentence_transformers import SentenceTransformer

    texts = export.sample_texts(4)
    cut = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(
        texts, truncate_dim=8, normalize_embeddings=True
    )
    np.testing.assert_allclose(cut, leading(export.embed_jax(tmp_path / "out", texts), 8)[:, :8], atol=1e-5)


def test_onnx_comes_with_its_parity(tmp_path, capsys, torch, monkeypatch):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'univar_jax[onnx]'")
    params = base(tmp_path / "base", "bert")
    export.export_params(params, tmp_path / "base", str(tmp_path / "out"), FACTS, onnx=True)
    assert "onnxruntime against jax on 32 texts: largest difference" in capsys.readouterr().out
    assert (tmp_path / "out" / "onnx" / "model.onnx").exists()
    assert "sentence_embedding" in (tmp_path / "out" / "README.md").read_text()
    monkeypatch.setattr(export.export_onnx, "installed", lambda: False)
    with pytest.raises(UserError, match=r"--onnx needs packages .* pip install 'univar_jax\[onnx\]'"):
        export.export_params(params, tmp_path / "base", str(tmp_path / "other"), FACTS, onnx=True)


def test_a_published_univar_folder_is_read_without_its_code(tmp_path, torch):
    """The layout of CAiRE/UniVaR-lambda-*: sentence-transformers around nomic_bert with custom code, 8,192 tokens."""
    params = base(tmp_path / "base", "nomic_bert")
    config = KINDS["nomic_bert"] | {
        "architectures": ["NomicBertModel"], "n_positions": 8192, "max_trained_positions": 2048,
        "rotary_scaling_factor": None, "rotary_emb_fraction": 1.0, "qkv_proj_bias": False, "use_flash_attn": True,
        "auto_map": {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"},
    }  # fmt: skip
    folder = tmp_path / "base"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_hf_nomic_bert.py").write_text("raise SystemExit('this code was run')")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 8192, "do_lower_case": false}')
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    export.export_params(params, folder, str(tmp_path / "out"), FACTS)
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")  # no trust_remote_code
    assert model.max_seq_length == 8192
    assert not list((tmp_path / "out").glob("*.py"))


def test_dynamic_angles_are_checked_one_text_at_a_time(tmp_path, torch):
    """Some of the check's texts are longer than that; in one batch torch would turn all like the longest."""
    params = base(tmp_path / "base", "nomic_bert")
    config = KINDS["nomic_bert"] | {"max_trained_positions": 64, "rotary_scaling_factor": 2}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    export.export_params(params, tmp_path / "base", str(tmp_path / "out"), FACTS)
    assert "more than 64 tokens depend on its length" in (tmp_path / "out" / "README.md").read_text()
    assert models.read_config(tmp_path / "out").positions == 700
