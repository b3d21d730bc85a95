"""A file or folder is there whole or not at all."""

import pytest
from etils import epath

from univar_jax import files


def test_a_file_is_whole_or_not_there(tmp_path):
    with pytest.raises(ZeroDivisionError), files.whole(tmp_path / "out") as file:
        file.write(b"half")
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
    files.write(tmp_path / "out", b"whole")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_bytes() == b"whole"


def test_a_file_that_is_there_stays_until_the_new_one_is_whole(tmp_path):
    files.write(tmp_path / "out", b"old")
    with pytest.raises(ZeroDivisionError), files.whole(tmp_path / "out") as file:
        file.write(b"new")
        _ = 1 / 0
    assert (tmp_path / "out").read_bytes() == b"old"


def test_a_folder_is_whole_or_not_there(tmp_path):
    out = epath.Path(tmp_path / "out")
    with pytest.raises(ZeroDivisionError), files.whole_folder(out, last="b") as aside:
        (aside / "a").write_text("half")
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
    with files.whole_folder(out, last="b") as aside:
        (aside / "a").write_text("whole")
        assert not out.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_where_nothing_can_be_renamed_the_marker_comes_last(tmp_path, monkeypatch):
    order = []
    kind = epath.Path(tmp_path).__class__
    opened = kind.open
    monkeypatch.setattr(kind, "open", lambda p, mode: (order.append((p.name, mode)), opened(p, mode))[1])
    aside = tmp_path / "aside"
    (aside / "deep").mkdir(parents=True)
    for name in ("a_marker", "b", "deep/c"):
        (aside / name).write_text(name)
    files.copy_folder(aside, epath.Path(tmp_path / "bucket"), last="a_marker")
    assert sorted(order[:2]) == [("b", "wb"), ("c", "wb")] and order[2:] == [("a_marker", "wb")]
    assert (tmp_path / "bucket" / "deep" / "c").read_text() == "deep/c"
