"""export_onnx: onnxruntime gives what torch gives, whatever batch and length; equal folders, equal bytes."""

import json
import shutil

import numpy as np
import pytest

from tests.test_export import FACTS, KINDS, base
from univar_jax import export
from univar_jax.cli import UserError
from univar_jax.encoders import export_onnx

pytest.importorskip("sentence_transformers", reason="needs torch: pip install 'univar_jax[torch]'")
onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'univar_jax[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'univar_jax[onnx]'")
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'univar_jax[onnx]'")

# One token, seventeen with their marks, several languages, and more than any encoder's positions.
TEXTS = ["value", "value " * 15, *export.sample_texts(6), "value " * 250, "value " * 800]
# A layer is traced as the one before it, and a trace takes seconds; ModernBERT's layers are of two kinds.
LAYERS = {"nomic_bert": {"n_layer": 1}, "distilbert": {"n_layers": 1}, "modernbert": {}}
CLOSE = {"atol": 1e-5, "rtol": 0}  # coordinates of unit vectors


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """exported(kind, **values) → a folder as export makes it of a small random encoder, without its check."""

    def make(kind, **values):
        monkeypatch.setitem(KINDS, kind, KINDS[kind] | LAYERS.get(kind, {"num_hidden_layers": 1}) | values)
        monkeypatch.setattr(export, "_parity", lambda *_: {"torch against jax": "0"})
        export.export_params(base(tmp_path / "base", kind), tmp_path / "base", str(tmp_path / "out"), FACTS)
        return tmp_path / "out"

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_equal_torchs(kind, exported, capfd, monkeypatch):
    folder = exported(kind)
    capfd.readouterr()
    export_onnx.write(folder)
    z_nd = export_onnx.embed(folder, TEXTS)
    assert "modernbert" in kind or capfd.readouterr() == ("", "")  # transformers has words for that small vocabulary
    assert z_nd.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(z_nd, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(z_nd, export.embed_torch(folder, TEXTS), **CLOSE)
    # Neither the batch nor its longest text has a say, nor how many go at once.
    for n in (0, 1, len(TEXTS) - 1):
        np.testing.assert_allclose(export_onnx.embed(folder, [TEXTS[n]]), z_nd[[n]], **CLOSE)
    monkeypatch.setattr(export_onnx, "_SLOTS", 2100)
    np.testing.assert_allclose(export_onnx.embed(folder, TEXTS), z_nd, **CLOSE)
    assert export_onnx.embed(folder, []).shape == (0, 32)

    path = folder / "onnx" / "model.onnx"
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path)
    assert {v.name: (v.type, v.shape) for v in [*session.get_inputs(), *session.get_outputs()]} == {
        "input_ids": ("tensor(int64)", ["batch", "tokens"]),
        "attention_mask": ("tensor(int64)", ["batch", "tokens"]),
        "last_hidden_state": ("tensor(float)", ["batch", "tokens", 32]),
        "sentence_embedding": ("tensor(float)", ["batch", 32]),
    }


def test_cls_and_equal_bytes(exported, tmp_path):
    import torch
    from transformers import AutoModel

    folder = exported("distilbert")
    (folder / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 32, "pooling_mode": "cls"}')
    export_onnx.write(folder)
    model, tokenizer = AutoModel.from_pretrained(folder), export_onnx.models.tokenizer(folder)
    for text, z_d in zip(TEXTS[:-1], export_onnx.embed(folder, TEXTS[:-1]), strict=True):
        with torch.no_grad():
            first_d = model(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0, 0].numpy()
        np.testing.assert_allclose(z_d, first_d / np.linalg.norm(first_d), **CLOSE)

    shutil.copytree(folder, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("onnx"))
    export_onnx.write(tmp_path / "elsewhere")
    data = (folder / "onnx" / "model.onnx").read_bytes()
    assert data == (tmp_path / "elsewhere" / "onnx" / "model.onnx").read_bytes()
    assert str(tmp_path).encode() not in data and b".py" not in data  # the exporter notes where each op comes from


def test_angles_that_stretch_with_each_text_and_tensors_beside(exported, monkeypatch):
    folder = exported("nomic_bert", rotary_scaling_factor=2.0, max_trained_positions=100)
    monkeypatch.setattr(export_onnx, "_ONE_FILE", 0)
    export_onnx.write(folder)
    assert sorted(p.name for p in (folder / "onnx").iterdir()) == ["model.onnx", "model.onnx_data"]
    assert (folder / "onnx" / "model.onnx").stat().st_size < 1e6
    onnx.checker.check_model(folder / "onnx" / "model.onnx")
    z_nd = export_onnx.embed(folder, TEXTS[:-1])
    np.testing.assert_allclose(z_nd, export.embed_jax(folder, TEXTS[:-1]), **CLOSE)
    # In torch the longest text of a batch says the angles of all: by itself it has its own.
    np.testing.assert_allclose(z_nd[-1:], export.embed_torch(folder, TEXTS[-2:-1]), **CLOSE)


def test_mistakes_in_one_line(exported, monkeypatch):
    from safetensors.numpy import load_file, save_file

    folder = exported("bert")
    refused = []

    def refuse(match, call, *args):
        with pytest.raises(UserError, match=match) as error:
            call(*args)
        assert "\n" not in str(error.value)
        refused.append(match)

    refuse(r"model\.onnx or onnxruntime is missing: pip install .* --onnx", export_onnx.embed, folder, TEXTS)
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "word_emb" not in k}, folder / "model.safetensors")
    refuse(r"lacks tensors \(1, such as embeddings\.word_embeddings\.weight\)", export_onnx.write, folder)
    (folder / "model.safetensors").write_bytes(b"{}")
    refuse("is not loaded by transformers", export_onnx.write, folder)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "max"}))
    refuse("pooling_mode=.max.*mean, cls", export_onnx.write, folder)
    monkeypatch.setattr(export_onnx, "installed", lambda: False)
    refuse(r"pip install 'univar_jax\[onnx\]'", export_onnx.write, folder)
    assert len(refused) == 5 and not (folder / "onnx").exists()
