"""weights: one table, both directions, the same bytes; what does not fit is named with both shapes."""

import json

import numpy as np
import pytest
import safetensors.numpy

from univar_jax.cli import UserError
from univar_jax.encoders import encoder, models, names, weights

SIZES = {"vocab_size": 90, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
DISTIL = {"dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads"}
KINDS = {
    "bert": SIZES,
    "nomic_bert": SIZES,
    "roberta": SIZES,
    "xlm-roberta": SIZES,
    "distilbert": {"vocab_size": 90, "hidden_dim": 24} | {new: SIZES[old] for new, old in DISTIL.items()},
    "mpnet": SIZES,
    "modernbert": SIZES | {"pad_token_id": 0},
}


def random_folder(folder, kind):
    """A folder with small random weights; what `encoder` wants is what `weights` writes."""
    (folder / "config.json").write_text(json.dumps(KINDS[kind] | {"model_type": kind}))
    config = models.read_config(folder)
    rng = np.random.default_rng(0)
    shapes = encoder.abstract_params(config)
    params = {k: draw(v, rng) for k, v in shapes.items()}
    carried = {"pooler.dense.bias": np.arange(16, dtype=np.float32)} if kind == "bert" else {}
    weights.save(params, config, carried, folder)
    return config, params


def draw(tree, rng):
    if isinstance(tree, dict):
        return {k: draw(v, rng) for k, v in tree.items()}
    return rng.normal(size=tree.shape).astype(np.float32)


@pytest.fixture(params=KINDS)
def folder(request, tmp_path):
    random_folder(tmp_path, request.param)
    return tmp_path


def rewrite(folder, change):
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    path.write_bytes(safetensors.numpy.save(change(tensors)))


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(tmp_path, kind):
    config, params = random_folder(tmp_path, kind)
    loaded = weights.load(tmp_path, config)
    flat, again = weights.flatten(params), weights.flatten(loaded)
    assert flat.keys() == again.keys()
    assert all(np.array_equal(flat[k], again[k]) for k in flat)
    assert weights.digest(params) == weights.digest(loaded)
    before = (tmp_path / "model.safetensors").read_bytes()
    weights.save(loaded, config, weights.carried(tmp_path, config), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("head", ["MaskedLM", "SequenceClassification", "QuestionAnswering"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_a_head_is_read_as_its_encoder(kind, head, tmp_path):
    pytest.importorskip("torch", reason="needs torch: pip install 'univar_jax[torch]'")
    import transformers

    config = transformers.AutoConfig.for_model(kind, **KINDS[kind])
    make = getattr(transformers, f"AutoModelFor{head}")
    if type(config) not in make._model_mapping:
        pytest.skip("transformers has no such model")
    model = make.from_config(config)
    model.save_pretrained(tmp_path / "whole")
    model.base_model.save_pretrained(tmp_path / "bare")
    digests = [weights.digest(weights.load(f, models.read_config(f))) for f in (tmp_path / "whole", tmp_path / "bare")]
    assert digests[0] == digests[1]
    assert len(weights.carried(tmp_path / "whole", models.read_config(tmp_path / "whole"))) >= 2


def test_minilm_comes_back_as_the_published_bytes(tmp_path):
    folder = models.folder("minilm")
    config = models.read_config(folder)
    carried = weights.carried(folder, config)
    assert set(carried) == {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
    weights.save(weights.load(folder, config), config, carried, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_digest_sees_value_shape_and_name():
    x = np.ones((2, 3), np.float32)
    digests = [{"a": {"b": x}}, {"a": {"b": x + 1e-7}}, {"a": {"b": x.T}}, {"a": {"c": x}}]
    assert len({weights.digest(d) for d in digests}) == 4
    assert weights.digest({"a": x, "b": x * 2}) == weights.digest({"b": x * 2, "a": x})


@pytest.mark.parametrize("prefix", names.PREFIXES)
def test_prefix_and_old_norm_names(folder, prefix):
    config = models.read_config(folder)
    plain = weights.digest(weights.load(folder, config))

    def old(name):
        return prefix + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    rewrite(folder, lambda tensors: {old(k): v for k, v in tensors.items()})
    assert weights.digest(weights.load(folder, config)) == plain


def test_parts_and_short_types(folder):
    config = models.read_config(folder)
    whole = weights.flatten(weights.load(folder, config))
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    names = sorted(tensors)
    index = {}
    for part, chosen in enumerate((names[::2], names[1::2])):
        safetensors.numpy.save_file({k: tensors[k].astype(np.float16) for k in chosen}, folder / f"{part}.safetensors")
        index |= dict.fromkeys(chosen, f"{part}.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    halves = weights.flatten(weights.load(folder, config))
    assert all(np.array_equal(halves[k], whole[k].astype(np.float16).astype(np.float32)) for k in whole)


def test_bfloat16_is_the_upper_half_of_float32():
    x = np.array([1.0, -2.5, 3.140625], np.float32)
    entry = {"dtype": "BF16", "shape": [3], "data": (x.view("<u4") >> 16).astype("<u2").tobytes()}
    assert np.array_equal(weights._array("folder", "name", entry), x)


def test_what_does_not_fit_is_named(folder):
    config = models.read_config(folder)
    [name] = names.TABLES[config.architecture]["embed/words/embedding"][1]
    path = folder / "model.safetensors"
    good = path.read_bytes()
    rewrite(folder, lambda tensors: tensors | {name: tensors[name][:, :8]})
    with pytest.raises(UserError, match=rf"{name} has shape \(90, 8\), config.json says \(90, 16\)"):
        weights.load(folder, config)
    path.write_bytes(good)
    rewrite(folder, lambda tensors: {k: v for k, v in tensors.items() if k != name})
    with pytest.raises(UserError, match=f"{name} is missing"):
        weights.load(folder, config)
    path.write_bytes(good)
    rewrite(folder, lambda tensors: tensors | {"adapter.weight": np.ones(3, np.float32)})
    with pytest.raises(UserError, match=r"1 weights are left over.*adapter\.weight"):
        weights.load(folder, config)
    path.write_bytes(good[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        weights.load(folder, config)


def test_parts_of_an_export_are_no_larger_than_asked(folder, tmp_path):
    config = models.read_config(folder)
    params, out = weights.load(folder, config), tmp_path / "parts"
    out.mkdir()
    largest = max(x.nbytes for x in safetensors.numpy.load_file(folder / "model.safetensors").values())
    weights.save(params, config, {}, out, shard_bytes=largest)
    parts = sorted(out.glob("model-*-of-*.safetensors"))
    assert len(parts) > 2 and not (out / "model.safetensors").exists()
    assert max(sum(x.nbytes for x in safetensors.numpy.load_file(part).values()) for part in parts) <= largest
    assert weights.digest(weights.load(out, config)) == weights.digest(params)


def test_bfloat16_is_rounded_to_the_nearest(folder, tmp_path):
    config = models.read_config(folder)
    params, out = weights.flatten(weights.load(folder, config)), tmp_path / "short"
    out.mkdir()
    carried = {"classifier.bias": np.ones(3, np.float32), "classifier.number": np.arange(3)}
    weights.save(weights.load(folder, config), config, carried, out, "bfloat16")
    for name, x in weights.flatten(weights.load(out, config)).items():
        assert np.all(np.abs(x - params[name]) <= np.abs(params[name]) * 2.0**-8), name
        assert not np.array_equal(x, params[name]) or not x.any(), name
    torch = pytest.importorskip("safetensors.torch", reason="needs torch: pip install 'univar_jax[torch]'")
    kinds = {str(x.dtype) for x in torch.load_file(out / "model.safetensors").values()}
    assert kinds == {"torch.bfloat16", "torch.int64"}


def pickled(folder):
    torch = pytest.importorskip("torch", reason="needs torch: pip install 'univar_jax[torch]'")
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return torch, {name: torch.tensor(x) for name, x in tensors.items()}


def test_pickled_weights_are_read_by_weights_only(folder):
    config = models.read_config(folder)
    plain = weights.digest(weights.load(folder, config))
    torch, tensors = pickled(folder)
    torch.save(tensors, folder / "pytorch_model.bin")
    assert weights.digest(weights.load(folder, config)) == plain
    names = list(tensors)
    index = {}
    for part, chosen in enumerate((names[::2], names[1::2])):
        torch.save({name: tensors[name] for name in chosen}, folder / f"pytorch_model-{part}.bin")
        index |= dict.fromkeys(chosen, f"pytorch_model-{part}.bin")
    (folder / "pytorch_model.bin").unlink()
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    assert weights.digest(weights.load(folder, config)) == plain


class Trap:
    def __reduce__(self):
        return open, (Trap.path, "w")


def test_code_in_a_pickle_is_not_run(folder, tmp_path):
    config = models.read_config(folder)
    torch, tensors = pickled(folder)
    Trap.path = str(tmp_path / "sprung")
    torch.save(tensors | {"extra": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"weights_only refuses it .* nothing of it was run: save the model") as error:
        weights.load(folder, config)
    assert "\n" not in str(error.value) and not (tmp_path / "sprung").exists()


def test_pickled_weights_without_torch_are_refused(folder, monkeypatch):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        UserError, match=r"pickled weights .* pip install 'univar_jax\[torch\]', or save the model once"
    ):
        weights.load(folder, models.read_config(folder))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"has no model\.safetensors; save the model once more"):
        weights.load(folder, models.read_config(folder))
