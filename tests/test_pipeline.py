"""prepare as an Apache Beam pipeline: the same bytes as by processes."""

import os
import subprocess

import pytest

from tests.conftest import ROOT, SAMPLE
from univar_jax.cli import UserError
from univar_jax.dataset import pipeline

# Three shards, so that there is something to spread.
CONFIG = """
from univar_jax import config


def get_config():
    values = config.defaults()
    values.update(max_qas=2, max_tokens=128, pairs=16, epochs=30)
    return values
"""


@pytest.mark.slow
def test_the_direct_runner_writes_the_same_bytes(stage, tiny_bert, tmp_path):
    env = os.environ | {"VENV": ".venv-beam"}  # Beam wants an older protobuf than ours
    subprocess.run(["bash", "-c", "source launch/venv.sh && venv beam"], cwd=ROOT, env=env, check=True)
    (tmp_path / "config.py").write_text(CONFIG)
    given = {"qa": SAMPLE, "encoder": tiny_bert, "config": tmp_path / "config.py", "lang": "eng"}
    assert stage("prepare", out=tmp_path / "plain", **given).returncode == 0
    words = [f"--{key}={value}" for key, value in given.items()] + [f"--out={tmp_path / 'beam'}"]
    words += ["--runner=DirectRunner", "--runner_option=--direct_num_workers=2"]
    command = [".venv-beam/bin/python", "-m", "univar_jax.prepare", *words]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    plain, beam = ({p.name: p.read_bytes() for p in (tmp_path / x).iterdir()} for x in ("plain", "beam"))
    assert sum(".tfrecord-" in name for name in plain) > 3
    assert beam == plain


def test_what_no_pipeline_can_do_is_told_before_anything_is_written(monkeypatch):
    with pytest.raises(UserError, match="--runner=Direct is not known; use DirectRunner, DataflowRunner"):
        pipeline.check("Direct", "out")
    monkeypatch.setattr(pipeline.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs apache_beam; pip install 'univar_jax\[beam\]'"):
        pipeline.check("DirectRunner", "out")
    monkeypatch.setattr(pipeline.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(UserError, match="--out=out is on this machine's disk"):
        pipeline.check("DataflowRunner", "out")
    pipeline.check("DataflowRunner", "gs://bucket/data")
