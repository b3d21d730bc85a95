"""Eight virtual CPU devices for every test; the real MiniLM and the sample for those that ask."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import csv
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# Many tests compile the same few programs, each in a fresh jit or process: compiled once, read after, also by the
# other test processes, which the first one starts with its environment.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: files go to the test processes in order, and at the end one would wait for it alone."""
    items.sort(key=lambda item: item.path.name != "test_end_to_end.py")


ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "univar_jax" / "sample" / "qa"


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the real MiniLM, downloaded once."""
    from univar_jax.encoders import models

    return models.folder("minilm")


@pytest.fixture(scope="session")
def tiny_bert(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two narrow layers with MiniLM's tokenizer: the real thing, in milliseconds."""
    torch = pytest.importorskip("torch", reason="the [torch] extra is not installed")
    import transformers

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny_bert")
    config = transformers.BertConfig(
        vocab_size=30522, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    transformers.BertModel(config).save_pretrained(folder)
    shutil.copy(minilm / "tokenizer.json", folder)
    return folder


@pytest.fixture(scope="session")
def tiny_config():
    """The config that goes with tiny_data."""
    from univar_jax import config

    values = config.defaults()
    values.update(max_qas=2, max_tokens=128, pairs=16, epochs=1, lr=1e-3, warmup_steps=2, log_every_steps=1)
    return config.complete(values)


@pytest.fixture(scope="session")
def tiny_data(tiny_bert: Path, tiny_config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's English answers, prepared for tiny_bert: some 22 steps of 16 pairs."""
    from univar_jax.prepare import prepare

    folder = tmp_path_factory.mktemp("tiny_data") / "data"
    prepare(str(SAMPLE), str(tiny_bert), str(folder), tiny_config, lang="eng", workers=1)
    return folder


@pytest.fixture(scope="session")
def meshes():
    """meshes(n): the mesh of the first n devices, on both axes where there are eight."""
    import jax

    from univar_jax.encoders.mesh import AXES

    def over(n: int) -> jax.sharding.Mesh:
        shape, types = (4, 2) if n == 8 else (n, 1), (jax.sharding.AxisType.Auto,) * 2
        return jax.make_mesh(shape, AXES, axis_types=types, devices=jax.devices()[:n])

    return over


@pytest.fixture
def questions(tmp_path: Path):
    """write(n): a file of n English questions, the first of them also in Spanish."""

    def write(n=6):
        rows = [("q0", "spa", "¿Está mal mentir?", "honesty", "open")]
        rows += [(f"q{i}", "eng", f"Is it wrong to lie {i} times?", "honesty", "open") for i in range(n)]
        path = tmp_path / "mine.csv"
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("question_id", "lang", "question", "value", "framing"), *rows])
        return path

    return write


@pytest.fixture(scope="session")
def stage():
    """Runs a stage as a user would: stage("prepare", qa=…, out=…) → (exit code, stdout, stderr)."""

    def run(name: str, **values: object) -> subprocess.CompletedProcess[str]:
        words = [f"--{key.replace('__', '.')}={value}" for key, value in values.items()]
        command = [sys.executable, "-m", f"univar_jax.{name}", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium, driven by playwright; a test that asks for it is skipped where one of them is not there."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = Path("/usr/bin/chromium")
    if not chromium.exists():
        pytest.skip(f"no browser at {chromium}")
    with sync_api.sync_playwright() as play:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        started = play.chromium.launch(executable_path=str(chromium), args=flags)
        yield started
        started.close()
