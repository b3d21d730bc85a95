"""Files and folders that are there whole or not at all, on a disk or in a bucket (gs://, s3://).

On a disk they are written aside, synced and renamed. A bucket has no rename, but an object is there whole or not at
all; a folder in one has a last file, without which nobody takes it for whole.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from etils import epath

from univar_jax.cli import UserError

Place = Path | epath.Path
# Of each store the package that opens it, and our extra that installs it.
_STORES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
_BLOCK = 1 << 24  # bytes copied at a time


def remote(path: str | Place) -> bool:
    """Whether a path is in a bucket."""
    return "://" in os.fspath(path)


def place(path: str, flag: str) -> Place:
    """A path in a bucket, or an absolute one on this machine's disks.

    Raises:
      UserError: a kind of store that is not known, or whose package is not installed.
    """
    if not remote(path):
        return Path(path).expanduser().absolute()  # Orbax takes no other
    kind = path.partition("://")[0]
    if kind not in _STORES:
        raise UserError(f"--{flag}={path}: {kind}:// is not known; give a local path, gs:// or s3://")
    package, extra = _STORES[kind]
    if importlib.util.find_spec(package) is None:
        raise UserError(f"--{flag}={path} needs the package {package}; pip install 'univar_jax[{extra}]'")
    return epath.Path(path)


def given(path: str, flag: str, cure: str) -> bytes:
    """The bytes of a file that a flag names.

    Args:
      path: the file.
      flag: its name, without the dashes.
      cure: what to do where it is not there.

    Raises:
      UserError: no such file, or a folder; a kind of store that is not known.
    """
    file = place(path, flag)
    if not file.exists() or file.is_dir():
        raise UserError(f"--{flag}={path}: no such file; {cure}")
    return file.read_bytes()


def cache() -> Path:
    """Where what was copied here stays: UNIVAR_CACHE, else univar_jax in the user's cache folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "univar_jax"
    return Path(os.environ.get("UNIVAR_CACHE") or home)


def copied(path: Place, sha256: str) -> Path:
    """A file on this machine's disk: itself, or a copy in the cache, made where there is none with these bytes.

    Args:
      path: the file.
      sha256: of its bytes, 64 hex digits; a copy that has another is not kept.
    """
    if not remote(path):
        return Path(path)
    copy = cache() / "copies" / sha256
    if not copy.exists() or hash_of(copy) != sha256:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with whole(copy) as to, path.open("rb") as source:
            shutil.copyfileobj(source, to, _BLOCK)
    return copy


def hash_of(path: Place) -> str:
    """A file's sha256, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole(path: Place) -> Iterator[BinaryIO]:
    """Yields a file that gets this name once the block is done, and is dropped where the block raises."""
    if remote(path):
        with tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as to:
                shutil.copyfileobj(file, to, _BLOCK)
        return
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


def leftovers(folder: Place, name: str = "*") -> list[Place]:
    """What killed processes left of files that `whole` had not named yet; in a bucket there is nothing."""
    return [] if remote(folder) else list(folder.glob(f".{name}.*.tmp"))


def write(path: Place, data: bytes) -> None:
    """Writes a small file whole."""
    with whole(path) as file:
        file.write(data)


@contextmanager
def whole_folder(out: Place, last: str) -> Iterator[Path]:
    """Yields a local folder that becomes `out` once the block is done, and is dropped where the block raises.

    On a disk it lies beside `out`, is synced and renamed; where another process has made `out` meanwhile, that
    one stays. A bucket has no rename: there the files are copied one by one, and the one named `last`, without
    which nobody takes the folder for whole, after all others.
    """
    if not remote(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=None if remote(out) else out.parent))
    try:
        yield aside
        if remote(out):
            copy_folder(aside, out, last)
        else:
            _rename(aside, Path(out))
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def finished(out: Place, last: str, inputs: str) -> bool:
    """Whether OUT is a whole report of these inputs.

    Args:
      out: a folder.
      last: its JSON file that was written last, whose `inputs` say what the report was made from.
      inputs: a digest.

    Raises:
      UserError: OUT is neither that nor free.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        same = json.loads((out / last).read_text())["inputs"] == inputs
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise UserError(f"--out={out}: exists with other content; give another --out or remove it")
    return True


@contextmanager
def through(folder: Place) -> Iterator[Path]:
    """Yields a folder on this machine's disk, for who writes nowhere else; at the end its files are in `folder`."""
    if not remote(folder):
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory() as aside:
        yield Path(aside)
        copy_folder(Path(aside), folder)


def copy_folder(folder: Place, out: Place, last: str = "") -> None:
    """Copies all files of a folder into another place, the one named `last` at the end."""
    for file in sorted(_files(folder), key=lambda f: f.name == last):
        to = out / os.path.relpath(os.fspath(file), os.fspath(folder))
        to.parent.mkdir(parents=True, exist_ok=True)
        with file.open("rb") as source, to.open("wb") as made:
            shutil.copyfileobj(source, made, _BLOCK)


def _files(folder: Place) -> Iterator[Place]:
    for entry in folder.iterdir():  # a bucket has no glob of any depth
        if entry.is_dir():
            yield from _files(entry)
        else:
            yield entry


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
