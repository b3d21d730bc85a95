"""The loss equals its definition, in value and gradient, however it is spread over devices."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from univar_jax.encoders import mesh as meshing
from univar_jax.training import ring
from univar_jax.training.loss import contrast, floor, leading, matryoshka

torch = pytest.importorskip("torch", reason="the [torch] extra is not installed")

SPREADS = ["dense", "gathered", "ring"]


def unit(rng, n, d):
    x = rng.normal(size=(n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return unit(rng, 48, 32), unit(rng, 48, 32), rng.integers(0, 5, 48)


@pytest.fixture
def spreads(meshes):
    """(spread, devices) → the loss as a function of anchors, keys, sources and scale."""
    return lambda spread, devices=8, **how: functools.partial(contrast, spread=spread, mesh=meshes(devices), **how)


def gradient(f, mesh, *args):
    """((loss, accuracy), gradients to anchors, keys and scale) of f, the anchors and keys lying over the mesh."""
    anchor, key, source, scale = args
    over = jax.device_put((anchor, key), meshing.rows(mesh))
    ours = jax.value_and_grad(lambda a, k, s: f(a, k, source, s), argnums=(0, 1, 2), has_aux=True)
    return jax.jit(ours)(*over, scale)


def in_torch(anchor, key, source, *, symmetric=False, same_source="keep", cuts=(None,)):
    """The loss at scale 50 and its gradients in float64; a cut is a part of the vectors, brought to unit norm."""
    a, k, s = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (anchor, key, 50.0))
    own, truth = torch.arange(len(source)), 0
    for cut in cuts:
        x, y = (a, k) if cut is None else (torch.nn.functional.normalize(z[:, :cut], dim=1) for z in (a, k))
        logits = s * x @ y.T
        if same_source == "mask":
            other = torch.tensor((source[:, None] == source) & ~np.eye(len(source), dtype=bool))
            logits = logits.masked_fill(other, -torch.inf)
        term = torch.nn.functional.cross_entropy(logits, own)
        truth += (term + torch.nn.functional.cross_entropy(logits.T, own)) / 2 if symmetric else term
    truth.backward()
    return truth.item(), tuple(x.grad.numpy() for x in (a, k, s))


def assert_equals(found, truth):
    (value, _), grads = found
    true_value, true_grads = truth
    assert float(value) == pytest.approx(true_value, rel=1e-5)
    for mine, theirs in zip(grads, true_grads, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("same_source", ["keep", "mask"])
@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("spread", SPREADS)
def test_equals_torch_cross_entropy_in_value_and_gradient(
    batch, spreads, meshes, spread, devices, same_source, symmetric
):
    how = {"symmetric": symmetric, "same_source": same_source}
    found = gradient(spreads(spread, devices, **how), meshes(devices), *batch, 50.0)
    assert_equals(found, in_torch(*batch, **how))


# Six anchors a device: blocks of four and a rest of two; and each anchor by itself.
@pytest.mark.parametrize("spread, block", [("gathered", 4 * 48), ("ring", 4 * 6), ("gathered", 1), ("ring", 1)])
def test_blocks_of_any_size_give_the_same(batch, spreads, meshes, monkeypatch, spread, block):
    monkeypatch.setattr(ring, "_BLOCK", block)
    found = gradient(spreads(spread, same_source="mask"), meshes(8), *batch, 50.0)
    assert_equals(found, in_torch(*batch, same_source="mask"))


@pytest.mark.parametrize("spread", SPREADS)
def test_views_that_all_agree_leave_the_log_of_the_batch(spreads, spread):
    z = jnp.ones((16, 4)) / 2
    value, accuracy = spreads(spread)(z, z, np.zeros(16), 50.0)
    assert float(value) == pytest.approx(np.log(16), abs=1e-5)
    assert float(accuracy) == 1  # ties count: nothing is nearer than the own key


@pytest.mark.parametrize("spread", SPREADS)
def test_mask_removes_only_other_pairs_of_the_same_source(batch, spreads, spread):
    anchor, key, _ = batch
    keep, mask = (jax.jit(spreads(spread, same_source=word)) for word in ("keep", "mask"))
    assert float(mask(anchor, key, np.arange(48), 50.0)[0]) == float(keep(anchor, key, np.arange(48), 50.0)[0])
    alone, accuracy = mask(anchor, key, np.zeros(48), 50.0)
    assert float(alone) == 0 and float(accuracy) == 1


@pytest.mark.parametrize("same_source", ["keep", "mask"])
@pytest.mark.parametrize("spread", SPREADS)
def test_accuracy_is_the_share_of_own_keys_that_none_left_in_is_nearer_than(spreads, spread, same_source):
    rng = np.random.default_rng(1)
    anchor, key = rng.choice([-0.5, 0.5], size=(2, 48, 4)).astype(np.float32)  # products are exact: ties are ties
    source = rng.integers(0, 3, 48)
    product = anchor @ key.T
    if same_source == "mask":
        product[(source[:, None] == source) & ~np.eye(48, dtype=bool)] = -np.inf
    ties = (product == product.max(1, keepdims=True)).sum(1) > 1
    nearest = np.diagonal(product) >= product.max(1)
    assert (nearest & ties).any() and 0 < nearest.mean() < 1
    found = jax.jit(spreads(spread, same_source=same_source))(anchor, key, source, 50.0)[1]
    assert float(found) == pytest.approx(nearest.mean())


@pytest.mark.parametrize("spread", SPREADS)
def test_bfloat16_vectors_are_computed_in_float32(batch, spreads, meshes, spread):
    anchor, key = (jnp.asarray(x, jnp.bfloat16) for x in batch[:2])
    (value, _), grads = gradient(spreads(spread), meshes(8), anchor, key, batch[2], 50.0)
    truth, true_grads = in_torch(*(np.asarray(x, np.float32) for x in (anchor, key)), batch[2])
    assert float(value) == pytest.approx(truth, rel=1e-5)
    for mine, theirs in zip(grads[:2], true_grads[:2], strict=True):
        assert mine.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(mine, np.float32), theirs, rtol=2**-8, atol=1e-5)  # rounded once


def test_pairs_that_do_not_divide_are_refused_except_by_dense(batch, spreads):
    anchor, key, source = (x[:12] for x in batch)
    for spread in ("gathered", "ring"):
        with pytest.raises(ValueError, match="12 pairs do not divide over 8 devices"):
            spreads(spread)(anchor, key, source, 50.0)
    assert float(spreads("dense")(anchor, key, source, 50.0)[0]) == pytest.approx(in_torch(anchor, key, source)[0])


# -- the compiled gradient -----------------------------------------------------------------------------------------


def lowered(f, mesh, n, d):
    """The gradient of n pairs whose vectors lie over the mesh; never run."""
    rows, whole = meshing.rows(mesh), meshing.whole(mesh)
    z = jax.ShapeDtypeStruct((n, d), jnp.float32, sharding=rows)
    source = jax.ShapeDtypeStruct((n,), jnp.int32, sharding=whole)
    slopes = jax.grad(lambda a, k, c, s: f(a, k, s, c)[0], argnums=(0, 1, 2))
    return jax.jit(slopes, out_shardings=(rows, rows, whole)).lower(z, z, 50.0, source)


def temporaries(*args):
    """Bytes of one device beside arguments and results."""
    return lowered(*args).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("spread", SPREADS)
def test_every_product_is_exact_on_accelerators_too(spreads, meshes, spread):
    text = lowered(spreads(spread), meshes(8), 64, 32).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) >= 3 and all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_a_ring_of_65536_pairs_takes_a_sixteenth_of_dense(spreads, meshes):
    dense, gathered, ring = (
        temporaries(spreads(spread, same_source="mask"), meshes(8), 65_536, 768) for spread in SPREADS
    )
    assert dense >= 65_536 / 8 * 65_536 * 4  # a device's share of the logits: the numbers are those of one device
    assert 8 * gathered <= dense and 16 * ring <= dense


def test_a_rings_memory_is_that_of_a_devices_own_pairs(spreads, meshes):
    two, eight = (temporaries(spreads("ring", n), meshes(n), 1024 * n, 256) for n in (2, 8))
    assert eight < 1.1 * two


def test_a_ring_only_passes_on_and_never_gathers(spreads, meshes):
    text = lowered(spreads("ring", same_source="mask"), meshes(8), 1024, 64).compile().as_text()
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    found = re.findall(rf'= (\S+|\(.*?\)) ({kinds})(?:-start)?\(.*op_name="(.*?)"', text)
    passed = [shape for shape, kind, _ in found if kind == "collective-permute"]
    # Keys, sources and numbers; once more for the gradient, with the keys' own.
    assert len(passed) == 7 and sum(shape.startswith("f32[128,64]") for shape in passed) == 3
    # The gradient to the scale, summed once, after the walk.
    [(shape, kind, where)] = [each for each in found if each[1] != "collective-permute"]
    assert shape.startswith("f32[]") and kind == "all-reduce" and "while" not in where
    assert "[1024,64]" not in text and "[128,1024]" not in text


# -- matryoshka ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spread, dims", [("dense", (8,)), ("dense", (32, 8)), *((spread, (16, 4)) for spread in SPREADS)]
)
def test_matryoshka_is_the_sum_over_cut_and_renormalised_vectors(batch, spreads, meshes, spread, dims):
    found = gradient(functools.partial(matryoshka, spreads(spread), dims), meshes(8), *batch, 50.0)
    assert_equals(found, in_torch(*batch, cuts={*dims, 32}))
    assert float(found[0][1]) == float(jax.jit(spreads(spread))(*batch, 50.0)[1])  # the whole vectors'


@pytest.mark.parametrize("spread", SPREADS)
def test_matryoshka_holds_one_sizes_products_at_a_time(spreads, meshes, spread):
    alone = temporaries(spreads(spread), meshes(8), 4096, 64)
    assert (
        temporaries(functools.partial(matryoshka, spreads(spread), (4, 8, 16, 32)), meshes(8), 4096, 64) < 1.7 * alone
    )


def test_leading_numbers_have_unit_norm_and_noughts_no_nan():
    z = np.concatenate([unit(np.random.default_rng(0), 3, 8), np.zeros((1, 8), np.float32)])
    cut = leading(z, 3)
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), [1, 1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(cut[:3, :3] * np.linalg.norm(z[:3, :3], axis=1, keepdims=True), z[:3, :3], atol=1e-6)
    assert not np.any(cut[:, 3:])


@pytest.mark.parametrize("same_source", ["keep", "mask"])
def test_vectors_that_know_the_source_alone_have_the_loss_of_the_floor(spreads, same_source):
    source = np.random.default_rng(0).integers(0, 5, 48)
    z_nd = np.eye(5, dtype=np.float32)[source]
    loss, _ = spreads("gathered", same_source=same_source)(z_nd, z_nd, source, 100.0)
    assert float(floor(jnp.asarray(source), same_source)) == pytest.approx(float(loss), abs=1e-5)
    assert (same_source == "mask") == (float(loss) < 1e-5)
