"""What every part of the harness stands on: a tiny encoder, its DATA, one config, and processes of train."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from univar_jax import config, prepare
from univar_jax.encoders import encoder, models, weights

ROOT = Path(__file__).parent.parent.parent
SAMPLE = ROOT / "univar_jax" / "sample" / "qa"
TOTAL = 24  # steps of a run: a loop of some seconds, most of them saving

# Saved after each step, so that many kills hit a save; six epochs, so that DATA has more than one shard for training.
VALUES = {
    "max_qas": 2, "max_tokens": 64, "row_tokens": 128, "pairs": 32, "epochs": 6, "lr": 1e-3, "warmup_steps": 2,
    "steps": TOTAL, "log_every_steps": 1, "save_every_steps": 1, "save_every_minutes": 0.0, "eval_every_steps": 8,
    "keep": 3, "mesh_fsdp": 2,
}  # fmt: skip
# A random BERT of two narrow layers; its table of words has more than 2**20 numbers, so that fsdp splits it.
BERT = {
    "model_type": "bert", "vocab_size": 30522, "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 72, "max_position_embeddings": 128,
}  # fmt: skip
_CONFIG = """from ml_collections import ConfigDict


def get_config():
    return ConfigDict({values})
"""


class Place:
    """The folder that all parts work in.

    Args:
      out: the folder; encoder, DATA and config.py are made there where they are not.

    Attributes:
      data: DATA, prepared from the sample.
      config: what it was prepared with, complete.
    """

    def __init__(self, out: Path) -> None:
        self.out = out.absolute()
        self.data = self.out / "data"
        self.config = config.complete(config.ConfigDict(VALUES))
        self._encoder = self.out / "encoder"
        self._begun = 0
        (self.out / "said").mkdir(parents=True, exist_ok=True)
        (self.out / "config.py").write_text(_CONFIG.format(values=VALUES))
        if not self._encoder.exists():
            _write_encoder(self._encoder)
        self.prepare(SAMPLE, self.data)

    def prepare(self, qa: Path, out: Path) -> None:
        """Prepares QA files with the place's encoder and config."""
        with open(self.out / "said" / "prepare.txt", "a") as said, contextlib.redirect_stdout(said):
            prepare.prepare(str(qa), str(self._encoder), str(out), self.config, workers=1)

    def fresh(self, name: str) -> Path:
        """A workdir in which nothing was done yet."""
        workdir = self.out / name
        shutil.rmtree(workdir, ignore_errors=True)
        return workdir

    def train(self, workdir: Path, *words: str, devices: int = 2, processes: int = 1, xla: str = "") -> "list[Process]":
        """Starts the processes of one run, with so many virtual devices each.

        Args:
          workdir: RUN.
          words: further flags.
          devices: of each process.
          processes: of the run.
          xla: further flags of XLA's.
        """
        command = [sys.executable, "-m", "univar_jax.train", f"--config={self.out / 'config.py'}"]
        command += [f"--data={self.data}", f"--workdir={workdir}", *words]
        xla = f"--xla_force_host_platform_device_count={devices} {xla}"
        env = os.environ | {"XLA_FLAGS": xla, "JAX_PLATFORMS": "cpu"}
        # Each program is compiled once: a start is then seconds, and what is killed is training, not compiling.
        env |= {"JAX_COMPILATION_CACHE_DIR": str(self.out / "xla"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        env |= {"JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
        port, begun = _free_port(), []
        for n in range(processes):
            own = [f"--coordinator=localhost:{port}", f"--num_processes={processes}", f"--process_id={n}"]
            self._begun += 1
            said = self.out / "said" / f"{self._begun:04d}.txt"
            begun.append(Process(command + own * (processes > 1), env, workdir, said))
        return begun


class Process(subprocess.Popen):
    """One process of train, which writes what it says into a file.

    Args:
      command: of the process.
      env: its environment.
      workdir: RUN.
      said: the file.
    """

    def __init__(self, command: list[str], env: dict[str, str], workdir: Path, said: Path) -> None:
        self._workdir, self._said = workdir, said
        with open(said, "w") as file:
            super().__init__(command, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT)

    def said(self) -> str:
        """All that it has said so far."""
        return self._said.read_text("utf-8", "replace")

    def doing(self) -> str:
        """What RUN/status.json says that this process does; "" before it says anything."""
        try:
            now = json.loads((self._workdir / "status.json").read_text("utf-8"))
        except (OSError, ValueError):
            return ""
        return now["doing"] if now["process"] == self.pid else ""

    def unfinished(self) -> list[Path]:
        """The folders of checkpoints that were begun and are not finished."""
        return list((self._workdir / "checkpoints").glob("*tmp*"))


def wait(processes: list[Process], seconds: float = 300) -> None:
    """Waits for all to end well; none is left behind.

    Raises:
      SystemExit: one ended with another code than 0, or not in time.
    """
    try:
        for process in processes:
            process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"a run did not end within {seconds:g} s:\n{processes[0].said()[-2000:]}") from None
    finally:
        for process in processes:
            process.kill()
            process.wait()
    bad = next((process for process in processes if process.returncode), None)
    if bad is not None:
        raise SystemExit(f"a run that nothing disturbed ended with {bad.returncode}:\n{bad.said()[-2000:]}")


def newest(workdir: Path) -> int:
    """The step of the newest finished checkpoint, by the names in the folder; 0 where there is none."""
    return max((int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()), default=0)


def state(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Parameters and moments of a checkpoint by path, on one device; by Orbax alone, which changes nothing there."""
    device, found = jax.sharding.SingleDeviceSharding(jax.devices()[0]), {}
    for item in ("params", "moments"):
        with ocp.StandardCheckpointer() as reader:
            folder = epath.Path(workdir) / "checkpoints" / str(step) / item
            tree = reader.metadata(folder).item_metadata.tree
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), tree)
            found |= weights.flatten({item: reader.restore(folder, shapes)})
    return found


def same_bits(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Whether arrays by path are the same, shapes, types and every bit."""
    pairs = ((one[name], other.get(name)) for name in one)
    return one.keys() == other.keys() and all(
        x.shape == y.shape and x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs
    )


def lines(workdir: Path) -> Iterator[dict]:
    """The lines of metrics.jsonl; every one has to be whole."""
    path = workdir / "metrics.jsonl"
    return map(json.loads, path.read_text("utf-8").splitlines() if path.exists() else [])


def _write_encoder(folder: Path) -> None:
    """A random BERT with MiniLM's tokenizer, in the Hugging Face layout, by numpy alone."""
    aside = folder.with_name("encoder.part")
    aside.mkdir(parents=True, exist_ok=True)
    (aside / "config.json").write_text(json.dumps(BERT))
    architecture, draw = models.read_config(epath.Path(aside)), np.random.default_rng(0)

    def leaf(path: tuple, x: jax.ShapeDtypeStruct) -> np.ndarray:
        middle = 1.0 if path[-1].key == "scale" else 0.0
        return (middle + 0.02 * draw.standard_normal(x.shape)).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(leaf, encoder.abstract_params(architecture))
    weights.save(params, architecture, {}, epath.Path(aside))
    shutil.copy(models.folder("minilm") / "tokenizer.json", aside)
    aside.rename(folder)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]
