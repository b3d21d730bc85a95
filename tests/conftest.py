"""Eight virtual CPU devices for every test; the real MiniLM and the sample for those that ask."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "univar_jax" / "sample" / "qa"


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the real MiniLM, downloaded once."""
    from univar_jax import models

    return models.folder("minilm")


@pytest.fixture(scope="session")
def stage():
    """Runs a stage as a user would: stage("prepare", qa=…, out=…) → (exit code, stdout, stderr)."""

    def run(name: str, **values: object) -> subprocess.CompletedProcess[str]:
        words = [f"--{key.replace('__', '.')}={value}" for key, value in values.items()]
        command = [sys.executable, "-m", f"univar_jax.{name}", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    return run
