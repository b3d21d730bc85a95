"""A run of updates equals PyTorch's with the same weights, batches, AdamW, schedule and clipping."""

import jax
import numpy as np
import pytest

from univar_jax.config import complete, defaults
from univar_jax.dataset.shards import Shards, read_manifest
from univar_jax.encoders import encoder, mesh, models, packing, weights
from univar_jax.training import batches, step

torch = pytest.importorskip("torch", reason="the [torch] extra is not installed")
transformers = pytest.importorskip("transformers")

STEPS, PAIRS = 6, 16


def config(**values):
    given = defaults()
    given.update(pairs=PAIRS, lr=1e-3, warmup_steps=2, weight_decay=0.1, **values)
    return complete(given)


@pytest.fixture(scope="module")
def records(tiny_data):
    shards = Shards(tiny_data, read_manifest(str(tiny_data)), "train")
    return [[shards.read(n * PAIRS + i) for i in range(PAIRS)] for n in range(STEPS)]


@pytest.fixture(scope="module")
def ours(meshes):
    """ours(folder, records, settings, devices=1) → the state after these records, and each step's metrics."""

    def run(folder, records, settings, devices=1):
        architecture, over = models.read_config(folder), meshes(devices)
        graph = encoder.build(architecture)
        state = jax.device_put(step.init(settings, weights.load(folder, architecture)), mesh.whole(over))
        lengths = np.array([[len(p.anchor), len(p.key)] for step_ in records for p in step_])
        plan = packing.plan(lengths, PAIRS, len(records), packing.Layout(256, 8))
        make = lambda shape: step.make(graph, settings, shape, over)  # noqa: E731
        updates = [jax.jit(make(shape), out_shardings=mesh.whole(over)) for shape in plan.shapes]
        lines = []
        for n, pairs in zip(plan.shape_n, records, strict=True):
            batch = batches.compose(pairs, plan.layout, plan.shapes[n])
            state, metrics = updates[n](state, jax.device_put(batch, batches.shardings(over, 1)))
            lines.append({k: float(v) for k, v in metrics.items()})
        return state, lines

    return run


def in_torch(folder, records, settings):
    """The original's way: each view padded to the longest, mean pooling, unit norm, clip, AdamW, inverse_sqrt."""
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    vectors = [p for p in model.parameters() if p.ndim < 2]
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    adam = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=settings.lr,
        betas=(0.9, 0.999),
    )
    schedule = transformers.get_inverse_sqrt_schedule(adam, num_warmup_steps=settings.warmup_steps)

    def encode(views):
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(v.astype(np.int64)) for v in views], batch_first=True)
        mask = ids != 0
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.nn.functional.normalize(mean, dim=1)

    lines = []
    for pairs in records:
        logits = settings.scale * encode([p.anchor for p in pairs]) @ encode([p.key for p in pairs]).T
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(PAIRS))
        adam.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        lines.append({"loss": loss.item(), "grad_norm": norm.item(), "lr": schedule.get_last_lr()[0]})
        adam.step()
        schedule.step()
    return model, lines


def test_six_updates_equal_pytorchs(ours, tiny_bert, records, tmp_path):
    settings = config()
    state, lines = ours(tiny_bert, records, settings)
    model, truth = in_torch(tiny_bert, records, settings)
    for mine, theirs in zip(lines, truth, strict=True):
        for key in theirs:
            assert mine[key] == pytest.approx(theirs[key], rel=2e-3, abs=1e-5), key
    assert lines[0]["lr"] == 0 and lines[2]["lr"] == pytest.approx(settings.lr)  # warm-up of 2, then the peak
    assert truth[0]["grad_norm"] > settings.clip_norm  # or clipping was not tried

    model.save_pretrained(tmp_path)
    theirs = weights.load(tmp_path, models.read_config(tiny_bert))
    before = weights.load(tiny_bert, models.read_config(tiny_bert))
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), theirs, before)
    off = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - b).max()), state["params"]["encoder"], theirs)
    # Adam's quotient turns rounding into steps of lr where a gradient is nearly nought: hence no tighter.
    assert max(jax.tree.leaves(off)) < 0.1 * max(jax.tree.leaves(moved))
    assert np.median(jax.tree.leaves(off)) < 0.01 * np.median(jax.tree.leaves(moved))


def test_the_schedule_is_transformers_inverse_sqrt():
    settings = config()
    lr = step.schedule(settings)
    truth = transformers.get_inverse_sqrt_schedule(
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), settings.warmup_steps
    ).lr_lambdas[0]
    for n in (0, 1, 2, 3, 10, 5000):
        assert float(lr(n)) == pytest.approx(settings.lr * truth(n), rel=1e-6)


def test_only_matrices_and_tables_decay(tiny_bert):
    settings = config(clip_norm=1e9)
    params = weights.load(tiny_bert, models.read_config(tiny_bert))
    state = step.init(settings, params)
    nought = jax.tree.map(np.zeros_like, state["params"])
    tx, opt = step.optimizer(settings), state["opt"]
    for _ in range(3):
        updates, opt = tx.update(nought, opt, state["params"])
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        decays = path[-1].key in ("kernel", "embedding")
        assert bool(np.any(update)) == decays, path


def test_a_learnt_scale_starts_at_the_configs_and_stays_below_its_cap(ours, tiny_bert, records):
    state, lines = ours(tiny_bert, records, config(learn_scale=True, scale=99.9))
    assert lines[0]["scale"] == pytest.approx(99.9, rel=1e-5)
    assert all(line["scale"] <= 100.001 for line in lines)
    assert float(np.exp(state["params"]["log_scale"])) != pytest.approx(99.9, rel=1e-6)


def test_moments_travel_through_plain_dicts(ours, tiny_bert, records):
    state, _ = ours(tiny_bert, records[:3], config())
    plain = step.moments(state)
    assert int(plain["count"]) == 3 and set(plain) == {"count", "mu", "nu"}
    fresh = step.init(config(), weights.load(tiny_bert, models.read_config(tiny_bert)))
    again = step.with_moments(fresh, state["params"], plain)
    jax.tree.map(np.testing.assert_array_equal, again["opt"], state["opt"])


def test_matryoshka_sizes_are_trained_by_the_step(ours, tiny_bert, records):
    _, plain = ours(tiny_bert, records[:2], config())
    _, sizes = ours(tiny_bert, records[:2], config(matryoshka_dims=(8, 16)))
    assert sizes[0]["loss"] > 2 * plain[0]["loss"]  # three terms, and short vectors tell less
    assert sizes[0]["accuracy"] == plain[0]["accuracy"]
    assert sizes[1]["grad_norm"] != plain[1]["grad_norm"]


@pytest.fixture(scope="module")
def dense(ours, tiny_bert, records):
    """Three updates, of which two move: the first has a rate of 0."""
    return ours(tiny_bert, records[:3], config(spread="dense", learn_scale=True), devices=8)


@pytest.mark.parametrize("spread", ["gathered", pytest.param("ring", marks=pytest.mark.slow)])
def test_the_spread_of_the_loss_changes_no_update(ours, dense, tiny_bert, records, spread):
    settings = config(spread=spread, learn_scale=True)
    (state, lines), (truth, true_lines) = ours(tiny_bert, records[:3], settings, devices=8), dense
    for mine, theirs in zip(lines, true_lines, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)

    off = lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max())  # noqa: E731
    for name in ("mu", "nu"):
        true = step.moments(truth)[name]["encoder"]
        error = jax.tree.map(off, step.moments(state)[name]["encoder"], true)
        size = jax.tree.map(lambda x: float(np.abs(x).max()), true)
        assert all(jax.tree.leaves(jax.tree.map(lambda e, s: e < 1e-4 * s, error, size)))  # 1e-5 was measured
    # The two moves are of lr/2 and lr. Adam divides rounding by rounding where a gradient is nearly nought: there, in
    # one place of a thousand at most, the two may be a hundredth of a move apart, 1e-5 as measured.
    moved = jax.tree.map(off, truth["params"]["encoder"], weights.load(tiny_bert, models.read_config(tiny_bert)))
    assert min(jax.tree.leaves(moved)) > settings.lr
    apart = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).ravel(), state["params"], truth["params"])
    apart = np.concatenate(jax.tree.leaves(apart))
    assert apart.max() < 2e-2 * settings.lr and np.quantile(apart, 0.999) < 2e-3 * settings.lr
