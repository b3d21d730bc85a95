"""Files and folders that are there whole or not at all: written aside, synced, renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from etils import epath

from univar_jax.cli import UserError


def local(path: str, flag: str) -> Path:
    """An absolute path on this machine's disks.

    Raises:
      UserError: it is remote; what is written and read here in place needs renames, syncs and seeks.
    """
    if "://" in path:
        raise UserError(f"--{flag}={path} is remote, which this version does not do; give a local folder")
    return Path(path).expanduser().absolute()  # Orbax takes no other


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Yields a file that gets this name once the block is done, and is dropped where the block raises."""
    # The process number: a killed run's worker may live a moment longer than its parent.
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        _sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def write(path: Path, data: bytes) -> None:
    """Writes a small file whole."""
    with whole(path) as file:
        file.write(data)


@contextmanager
def whole_folder(out: epath.Path, last: str) -> Iterator[Path]:
    """Yields a local folder that becomes `out` once the block is done, and is dropped where the block raises.

    On a disk it lies beside `out`, is synced and renamed; where another process has made `out` meanwhile, that
    one stays. A bucket has no rename: there the files are copied one by one, and the one named `last`, without
    which nobody takes the folder for whole, after all others.
    """
    remote = "://" in os.fspath(out)
    if not remote:
        out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=None if remote else out.parent))
    try:
        yield aside
        if remote:
            _copy(aside, out, last)
        else:
            _rename(aside, Path(out))
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _copy(folder: Path, out: epath.Path, last: str) -> None:
    for file in sorted((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.name == last):
        to = out / str(file.relative_to(folder))
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(file.read_bytes())


def _rename(aside: Path, out: Path) -> None:
    aside.chmod(0o755)  # mkdtemp's 700 would keep colleagues out
    for path in [*aside.rglob("*"), aside]:
        _sync(path)
    try:
        aside.rename(out)  # onto an empty folder it works, onto a full one it does not
    except OSError:
        if not out.is_dir():
            raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
