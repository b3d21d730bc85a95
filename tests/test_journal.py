"""journal: what was added is there after any death, torn lines are not, and one process writes at a time."""

import errno
import json
import os

import pytest

from univar_jax.asking import journal
from univar_jax.asking.journal import Journal
from univar_jax.cli import UserError

SETTINGS = {"model": "m"}


@pytest.fixture
def path(tmp_path):
    """A journal of three records."""
    path = tmp_path / "journal" / "m.jsonl"
    with Journal(path).writing(SETTINGS) as book:
        for i in range(3):
            book.add(f"k{i}", {"reply": {"text": f"answer {i} \ud83d 🙂"}})
    return path


def test_what_was_added_is_read_again(path):
    book = Journal(path)
    assert book.settings == SETTINGS and list(book.records) == ["k0", "k1", "k2"]
    assert book.records["k1"]["reply"]["text"] == "answer 1 \ud83d 🙂"  # half a character too


def test_a_record_is_on_the_disk_when_add_returns(path, monkeypatch):
    synced = []
    monkeypatch.setattr(journal.os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    with Journal(path).writing(SETTINGS) as book:
        book.add("k3", {})
        assert synced == [path.stat().st_size]
        assert "k3" in Journal(path).records


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_torn_last_line_is_cut_and_nothing_else(path, cut):
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert list(Journal(path).records) == ["k0", "k1"] and path.read_bytes() == whole[:-cut]  # reading changes nothing
    with Journal(path).writing(SETTINGS) as book:
        book.add("k9", {})
    assert list(Journal(path).records) == ["k0", "k1", "k9"]


def test_a_torn_first_line_is_written_again(path):
    path.write_bytes(path.read_bytes()[:10])
    assert Journal(path).settings is None
    with Journal(path).writing({"model": "other"}):
        pass
    assert Journal(path).settings == {"model": "other"}


@pytest.mark.parametrize("line", [b"{broken", b"[]", b'{"no": "key"}'])
def test_a_broken_line_in_the_middle_is_named(path, line):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], line + b"\n", *lines[2:]]))
    with pytest.raises(UserError, match=r"m.jsonl line 3 is broken; .* its question is asked again"):
        Journal(path)


def test_two_cannot_write_one_journal(path):
    told = pytest.raises(UserError, match="is being written by another elicit")
    with Journal(path).writing(SETTINGS), told, Journal(path).writing(SETTINGS):
        pass
    with Journal(path).writing(SETTINGS):  # free again
        pass


def test_what_another_wrote_before_the_lock_was_ours_is_not_lost(path):
    early = Journal(path)
    with pytest.raises(UserError, match="was begun with other settings"), Journal(path).writing({"model": "n"}):
        pass
    with Journal(path).writing(SETTINGS) as other:
        other.add("k3", {})
    with early.writing(SETTINGS) as book:
        book.add("k4", {})
    assert list(Journal(path).records) == ["k0", "k1", "k2", "k3", "k4"]


def test_a_full_disk_is_one_line_and_leaves_whole_lines(path, monkeypatch):
    before, pwrite = path.read_bytes(), os.pwrite

    def full(handle, data, offset):
        if offset > len(before) + 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(handle, data[:10], offset)

    with Journal(path).writing(SETTINGS) as book:
        monkeypatch.setattr(journal.os, "pwrite", full)
        with pytest.raises(UserError, match="No space left on device; the 3 answers in it are safe"):
            book.add("k3", {"reply": "x" * 100})
        assert "k3" not in book.records and path.read_bytes() == before
        monkeypatch.undo()
        book.add("k3", {})
    assert json.loads(path.read_bytes().splitlines()[-1]) == {"key": "k3"}
