"""The bill of a dry run says what the arrays of a real run take, without weights, records or a run's folder."""

import json
import types

import jax
import numpy as np
import pytest

from univar_jax.cli import UserError
from univar_jax.config import complete, defaults
from univar_jax.dataset.shards import Pair, Shards, read_manifest
from univar_jax.encoders import encoder, flops, mesh, models, packing
from univar_jax.training import batches, bill, loads, programs, runs, step, topology

ENCODER = {
    **{"model_type": "bert", "vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An encoder's folder that holds its config.json alone."""
    folder = tmp_path_factory.mktemp("encoder")
    (folder / "config.json").write_text(json.dumps(ENCODER))
    return folder


def config(**values):
    given = defaults()
    given.update({"pairs": 16, "max_tokens": 32, "same_source": "mask"} | values)
    return complete(given)


def run(config, folder, out, lengths_n2=None, steps=0, **flags):
    """The bill as JSON."""
    names = ("workdir", "topology", "rows", "segments_per_row")
    values = types.SimpleNamespace(bill=str(out), **{name: flags.get(name) for name in names})
    bill.dry_run(config, values, str(folder), lengths_n2, steps)
    return json.loads(out.read_text())


def on_one_device(tree):
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory):
    """The bill of 8 rows of 6 views."""
    return run(config(), folder, tmp_path_factory.mktemp("plain") / "bill.json", rows=8, segments_per_row=6)


def real_arrays(settings, folder):
    """A state and a batch as train makes them, on the mesh."""
    devices = mesh.make(settings.mesh_data, settings.mesh_fsdp)
    abstract = encoder.abstract_params(models.read_config(folder))
    state = step.init(settings, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract))
    pairs = [Pair(np.ones(5, np.uint16), np.ones(7, np.uint16), 0)] * 16
    batch = batches.compose(pairs, packing.Layout(32, 8), (packing.Group(8, 32, 6),))
    return jax.device_put((state, batch), (mesh.state(devices, state), batches.shardings(devices, 1)))


def check_bytes(found, settings, folder):
    state, batch = real_arrays(settings, folder)
    assert found["bytes"]["parameters"] == on_one_device(state["params"])
    assert found["bytes"]["moments"] == on_one_device(state["opt"])
    assert found["bytes"]["batch"] == on_one_device(batch)
    assert found["bytes"]["padding"] == 0  # what XLA says of the arguments is the sum of the three
    assert found["bytes"]["total"] == sum(v for k, v in found["bytes"].items() if k != "total")
    assert found["encoder"]["parameters"] == sum(x.size for x in jax.tree.leaves(state["params"]["encoder"]))


def test_bytes_are_those_of_the_real_arrays(folder, plain):
    check_bytes(plain, config(), folder)
    assert plain["mesh"] == {"data": 8, "fsdp": 1} and plain["devices"] == {"count": 8, "kind": "cpu"}
    assert plain["memory"] is plain["fits"] is None  # nobody knows what a process may take of a CPU's


def test_bytes_of_a_device_are_its_share(folder, plain, tmp_path, monkeypatch):
    monkeypatch.setattr("univar_jax.encoders.mesh._LARGE", 1024)  # so that fsdp splits this encoder's small arrays
    settings = config(mesh_fsdp=4, learn_scale=True)
    found = run(settings, folder, tmp_path / "bill.json", rows=8, segments_per_row=6)
    check_bytes(found, settings, folder)
    assert found["bytes"]["moments"] < plain["bytes"]["moments"] / 3
    assert found["collectives"]["all-gather"]["count"] > plain["collectives"].get("all-gather", {"count": 0})["count"]


def test_the_program_that_is_billed_is_the_one_that_runs(folder, plain):
    settings, architecture, devices = config(), models.read_config(folder), mesh.make(0, 1)
    state, shape = programs.abstract_state(settings, architecture), (packing.Group(8, 32, 6),)
    graph = programs.graph(settings, architecture, devices)
    memory = programs.lower(graph, settings, shape, devices, state).compile().memory_analysis()
    assert plain["bytes"]["temporaries"] == memory.temp_size_in_bytes > 0
    assert plain["collectives"]["all-reduce"]["count"] > 0
    assert plain["collectives"]["all-reduce"]["bytes"] >= 4 * 64 * 32  # a gradient at least


def test_equal_bills_are_equal_bytes_and_remat_takes_less(folder, plain, tmp_path):
    outs = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    for out, how in zip(outs, ("none", "none", "full"), strict=True):
        run(config(remat=how), folder, out, rows=8, segments_per_row=6)
    assert outs[0].read_bytes() == outs[1].read_bytes() != outs[2].read_bytes()
    none, full = (json.loads(out.read_text()) for out in outs[1:])
    assert none == plain
    assert full["bytes"]["temporaries"] < none["bytes"]["temporaries"] and full["config"] != none["config"]


def test_without_data_or_rows_every_view_is_full(folder, tmp_path, capsys):
    found = run(config(row_tokens=80), folder, tmp_path / "bill.json")
    # Rows of 80 hold two full views of 32: 32 views are 16 rows, a multiple of the 8 devices.
    assert found["rows"] == [{"rows": 16, "tokens": 80, "segments": 2}]
    assert found["tokens"] == {"slots": 16 * 80, "real": 32 * 32}
    assert "upper bound" in found["lengths"] and "upper bound" in capsys.readouterr().out
    work = flops.step(models.read_config(folder), config(), np.full((1, 32), 32))
    assert found["flops"]["attention"] == work["attention"][0]
    assert found["flops"]["total"] == sum(found["flops"][key] for key in work)


def test_with_data_lengths_are_the_records(stage, tiny_data, tiny_config, tmp_path):
    config_file = tmp_path / "config.py"
    changed = {key: value for key, value in tiny_config.items() if defaults()[key] != value}
    lines = ("from univar_jax import config", "def get_config():", " c = config.defaults()", f" c.update({changed})")
    config_file.write_text("\n".join((*lines, " return c")))
    workdir = tmp_path / "run"
    done = stage("train", dry_run=True, config=config_file, data=tiny_data, workdir=workdir)
    assert done.returncode == 0, done.stderr
    found = json.loads((workdir / "bill.json").read_text())
    lengths_n2 = Shards(tiny_data, read_manifest(str(tiny_data)), "train").lengths()
    steps = len(lengths_n2) // 16
    plan = packing.plan(lengths_n2, 16, steps, packing.Layout(128, 8))
    assert found["rows"] == [group.__dict__ for group in plan.shapes[-1]]
    assert found["tokens"]["real"] == lengths_n2[: steps * 16].sum() / steps
    assert sorted(path.name for path in workdir.iterdir()) == ["bill.json"]
    runs.check_free(workdir)  # or train could not start in it
    (workdir / "other").touch()
    with pytest.raises(UserError, match="is no run"):
        run(config(), "nowhere", tmp_path / "bill.json", workdir=str(workdir))


def test_rows_and_segments_are_as_asked():
    layout = packing.Layout(64, 8)
    load = loads.from_rows(config(), layout, 8, 0)
    assert load.shape == (packing.Group(8, 64, 4),) and load.real is None
    assert load.lengths_sv.sum() == 8 * 64
    with pytest.raises(UserError, match="use --rows=16"):
        loads.from_rows(config(), layout, 9, 0)
    with pytest.raises(UserError, match=r"hold 16 views .* have 32; use --segments_per_row=4"):
        loads.from_rows(config(), layout, 8, 2)


class TooLarge:
    """A program that XLA refuses."""

    def __init__(self, words):
        self.words = words

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.words)


@pytest.mark.parametrize(
    "words",
    [
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded by 4.75G.",
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (20992.00M) "
        "exceeds available HBM (15.75G).",
    ],
)
def test_what_does_not_fit_is_billed_with_its_cures(folder, tmp_path, monkeypatch, capsys, words):
    monkeypatch.setattr(programs, "lower", lambda *_: TooLarge(words))
    found = run(config(remat="full"), folder, tmp_path / "bill.json")
    assert found["fits"] is False and found["share"] == pytest.approx(20.5 / 15.75)
    assert found["bytes"]["total"] == 20.5 * 2**30 and found["usable"] == 15.75 * 2**30
    assert found["bytes"]["temporaries"] is None and found["bytes"]["parameters"] > 0
    assert found["collectives"] is None
    screen = capsys.readouterr().out
    assert "does NOT fit: 20.50 of 15.75 GiB, 130%" in screen
    assert "--config.rows_per_chunk=8" in screen and "--config.mesh_fsdp=8" in screen
    assert "--config.remat" not in screen  # it is full already


def test_another_fault_of_the_compiler_is_not_hidden(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "lower", lambda *_: TooLarge("INTERNAL: broken"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="broken"):
        run(config(), folder, tmp_path / "bill.json")


MISTAKES = {
    "no encoder": ({"dry_run": True}, "--encoder is missing"),
    "an unknown topology": ({"dry_run": True, "encoder": "FOLDER", "topology": "v9:2x2"}, "v9:2x2 is not known; give"),
    "a flag of a dry run alone": ({"rows": 8}, "--rows is for a dry run"),
    "no data": ({"encoder": "FOLDER"}, "--data, --workdir is missing"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_ends_in_one_line(stage, folder, name):
    values, words = MISTAKES[name]
    values = {key: folder if value == "FOLDER" else value for key, value in values.items()}
    done = stage("train", config="configs/lambda1.py", **values)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["v5e", "v5e:4", "v5e:2x2x4", "v4:2x2", "v5e:0x4", "h100", "h100:2x4", "cpu:8", ""])
def test_a_name_that_is_no_topology(name):
    with pytest.raises(UserError, match=r"is not known; give v4:AxBxC, v5e:AxB"):
        topology.devices(name)


SLICES = {"v4:2x2x1": 4, "v5e:1x1": 1, "v5e:2x4": 8, "v5e:16x16": 256, "v5p:2x2x4": 16, "v6e:2x4": 8}


def test_slices_that_are_not_there_have_known_devices():
    pytest.importorskip("libtpu", reason="the [aot] extra is not installed")
    for name, count in SLICES.items():
        found = topology.devices(name)
        assert len(found) == count and flops.device(found[0].device_kind), name
        assert mesh.make(0, 1, found).size == count
    with pytest.raises(UserError, match=r"v5e:3x5.*give v4:AxBxC"):
        topology.devices("v5e:3x5")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x4"])
def test_a_slice_that_is_not_there_is_compiled_for(folder, tmp_path, name):
    pytest.importorskip("libtpu", reason="the [aot] extra is not installed")
    found = run(config(matmul_dtype="bfloat16"), folder, tmp_path / "bill.json", topology=name)
    assert found["devices"]["count"] == SLICES[name] and found["topology"] == name
    assert found["fits"] is True and 0 < found["share"] < 0.1
    assert found["versions"]["libtpu"] and found["collectives"]["all-reduce"]["count"] > 0


@pytest.mark.slow
def test_gpus_that_are_not_there_are_compiled_for(folder, tmp_path):
    pytest.importorskip("jax_plugins.xla_cuda12", reason="jax-cuda12-plugin is not installed")
    found = run(config(), folder, tmp_path / "bill.json", topology="h100:8")
    assert found["devices"] == {"count": 8, "kind": "NVIDIA H100 80GB HBM3"} and found["fits"] is True
    assert found["collectives"]["all-reduce"]["count"] > 0
