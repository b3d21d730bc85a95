"""What the process holds for its programs: memory that is not cleared again in every step."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import jax, jax.numpy as jnp
from univar_jax.training import programs
if sys.argv[1] == "keep":
    programs.keep_memory()
x = jnp.ones((2048, 2048))  # 16 MiB
step = jax.jit(lambda x: jnp.tanh(jnp.flip(jnp.sin(x) @ x, 0) @ x).sum())
for _ in range(6):
    float(step(x))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    float(step(x))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_a_second_step_takes_no_new_pages():
    run = lambda word: int(subprocess.run([sys.executable, "-c", FAULTS, word], capture_output=True, check=True).stdout)  # noqa: E731
    plain, kept = run("plain"), run("keep")
    assert plain > 10 * 4096  # each step some 16 MiB anew, in pages of 4 KiB
    assert kept < plain / 3
