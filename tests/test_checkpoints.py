"""Where Orbax cannot write, whole checkpoints are copied: what is copied, what goes, and what nobody may touch."""

from etils import epath

from univar_jax.training.checkpoints import _LAST, _Copied


def checkpoint(folder, step, said, whole=True):
    (folder / step / "params").mkdir(parents=True)
    (folder / step / "params" / "array").write_text(said)
    if whole:
        (folder / step / _LAST).write_text(f"{said}'s time")


def contents(folder):
    return {path.parent.parent.name: path.read_text() for path in folder.glob("*/params/array")}


def test_a_folder_is_made_equal_to_the_whole_checkpoints_of_another(tmp_path):
    here, there = epath.Path(tmp_path / "here"), epath.Path(tmp_path / "there")
    checkpoint(there, "2", "two")
    checkpoint(there, "4", "four, saved again")
    checkpoint(there, "6", "half", whole=False)
    checkpoint(here, "2", "two")
    checkpoint(here, "4", "four")
    checkpoint(here, "1", "old")
    before = (here / "2" / "params" / "array").stat().mtime
    _Copied._equal(here, there)
    assert contents(here) == {"2": "two", "4": "four, saved again"}
    assert (here / "2" / "params" / "array").stat().mtime == before
    assert contents(there) == {"2": "two", "4": "four, saved again", "6": "half"}


def test_a_reader_takes_nothing_from_a_run_that_is_saving(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIVAR_CACHE", str(tmp_path / "cache"))
    store = epath.Path(tmp_path / "bucket")
    checkpoint(store, "2", "two")
    with _Copied(store, kind="runs") as run:
        checkpoint(run.directory, "4.orbax-checkpoint-tmp", "half", whole=False)
        with _Copied(store, kind="reads") as reader:
            assert reader.all_steps() == [2]
        assert "4.orbax-checkpoint-tmp" in contents(run.directory)
