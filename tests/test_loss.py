"""The loss equals its definition, in value and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from univar_jax.loss import infonce, leading, matryoshka

torch = pytest.importorskip("torch", reason="the [torch] extra is not installed")


def unit(rng, n, d):
    x = rng.normal(size=(n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return unit(rng, 48, 32), unit(rng, 48, 32), rng.integers(0, 5, 48)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("same_source", ["keep", "mask"])
def test_equals_torch_cross_entropy_in_value_and_gradient(batch, symmetric, same_source):
    anchor, key, source = batch
    ours = lambda a, k, s: infonce(a, k, source, s, symmetric=symmetric, same_source=same_source)[0]  # noqa: E731
    value, grads = jax.value_and_grad(ours, argnums=(0, 1, 2))(anchor, key, 50.0)

    a, k, s = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (anchor, key, 50.0))
    logits = s * a @ k.T
    if same_source == "mask":
        other = torch.tensor((source[:, None] == source) & ~np.eye(48, dtype=bool))
        logits = logits.masked_fill(other, -torch.inf)
    truth = torch.nn.functional.cross_entropy(logits, torch.arange(48))
    if symmetric:
        truth = (truth + torch.nn.functional.cross_entropy(logits.T, torch.arange(48))) / 2
    truth.backward()

    assert abs(float(value) - truth.item()) < 1e-5 * truth.item()
    for mine, theirs in zip(grads, (a, k, s), strict=True):
        np.testing.assert_allclose(mine, theirs.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_views_that_all_agree_leave_the_log_of_the_batch():
    z = jnp.ones((16, 4)) / 2
    loss, accuracy = infonce(z, z, np.zeros(16), 50.0)
    assert float(loss) == pytest.approx(np.log(16), abs=1e-5)
    assert float(accuracy) == 1  # ties count: nothing is nearer than the own key


def test_mask_removes_only_other_pairs_of_the_same_source(batch):
    anchor, key, _ = batch
    kept, _ = infonce(anchor, key, np.arange(48), 50.0, same_source="mask")
    assert float(kept) == float(infonce(anchor, key, np.arange(48), 50.0)[0])
    alone, accuracy = infonce(anchor, key, np.zeros(48), 50.0, same_source="mask")
    assert float(alone) == 0 and float(accuracy) == 1


def test_accuracy_is_the_share_of_own_keys_that_are_nearest(batch):
    anchor, key, source = batch
    key[:12] = anchor[:12]
    expected = np.mean((anchor @ key.T).argmax(1) == np.arange(48))
    assert float(infonce(anchor, key, source, 50.0)[1]) == pytest.approx(expected)


@pytest.mark.parametrize("dims", [(8,), (16, 4), (32, 8)])
def test_matryoshka_is_the_sum_over_cut_and_renormalised_vectors(batch, dims):
    anchor, key, source = batch
    ours = lambda a, k, s: matryoshka(infonce, dims, a, k, source, s)  # noqa: E731
    (value, accuracy), grads = jax.value_and_grad(ours, argnums=(0, 1, 2), has_aux=True)(anchor, key, 50.0)

    a, k, s = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (anchor, key, 50.0))
    unit = functools.partial(torch.nn.functional.normalize, dim=1)
    parts = [s * unit(a[:, :d]) @ unit(k[:, :d]).T for d in {*dims, 32}]
    truth = sum(torch.nn.functional.cross_entropy(logits, torch.arange(48)) for logits in parts)
    truth.backward()
    assert abs(float(value) - truth.item()) < 1e-5 * truth.item()
    for mine, theirs in zip(grads, (a, k, s), strict=True):
        np.testing.assert_allclose(mine, theirs.grad.numpy(), rtol=1e-4, atol=1e-5)
    assert float(accuracy) == float(infonce(anchor, key, source, 50.0)[1])  # the whole vectors'


def test_matryoshka_holds_one_sizes_products_at_a_time():
    z = jax.ShapeDtypeStruct((1024, 64), jnp.float32)
    source = np.zeros(1024, np.int32)

    def temporaries(loss):
        gradient = jax.jit(jax.grad(lambda a, k: loss(a, k, source, 50.0)[0], argnums=(0, 1)))
        return gradient.lower(z, z).compile().memory_analysis().temp_size_in_bytes

    alone = temporaries(infonce)
    assert temporaries(functools.partial(matryoshka, infonce, (4, 8, 16, 32))) < 1.7 * alone


def test_leading_numbers_have_unit_norm_and_noughts_no_nan():
    z = np.concatenate([unit(np.random.default_rng(0), 3, 8), np.zeros((1, 8), np.float32)])
    cut = leading(z, 3)
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), [1, 1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(cut[:3, :3] * np.linalg.norm(z[:3, :3], axis=1, keepdims=True), z[:3, :3], atol=1e-6)
    assert not np.any(cut[:, 3:])
