"""DATA and RUN in buckets, against servers of S3's and GCS's protocols on this machine; from [slow]."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import fsspec
import numpy as np
import pytest

from tests.conftest import ROOT, SAMPLE
from univar_jax import files
from univar_jax.cli import UserError

CONFIG = """
from univar_jax import config


def get_config():
    values = config.defaults()
    values.update(
        max_qas=2, max_tokens=128, pairs=16, epochs=1, lr=1e-3, warmup_steps=2, log_every_steps=1, steps=4,
        save_every_steps=2,
    )
    return values
"""


def port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def serve(command: list[str], url: str) -> subprocess.Popen:
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=1)
            return server
        except urllib.error.HTTPError:
            return server
        except OSError:
            assert server.poll() is None, command
            time.sleep(0.1)
    raise AssertionError(f"{command} does not answer")


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request, tmp_path_factory):
    """The name of an empty bucket; its server's address is in the environment."""
    number = port()
    url = f"http://localhost:{number}"
    values = {"UNIVAR_CACHE": str(tmp_path_factory.mktemp("cache"))}
    if request.param == "s3":
        pytest.importorskip("moto", reason="the [slow] extra is not installed")
        pytest.importorskip("s3fs", reason="the [slow] extra is not installed")
        command = [sys.executable, "-m", "moto.server", "-H", "localhost", "-p", str(number)]
        values |= {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        values |= {"AWS_DEFAULT_REGION": "us-east-1"}
    else:
        pytest.importorskip("gcp_storage_emulator", reason="the [slow] extra is not installed")
        pytest.importorskip("gcsfs", reason="the [slow] extra is not installed")
        command = [sys.executable, str(ROOT / "tests" / "gcs.py"), str(number)]
        # Without NO_GCE_CHECK Google's client asks for a metadata server first, and waits for it.
        values |= {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url, "NO_GCE_CHECK": "true"}
    server = serve(command, url)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        fsspec.filesystem(request.param).mkdir("bucket") if request.param == "s3" else None
        yield f"{request.param}://bucket"
    server.kill()
    server.wait()


def ended(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(path: str) -> bytes:
    kind = path.partition("://")[0]
    store = fsspec.filesystem(kind)
    store.invalidate_cache()
    return store.cat_file(path)


@pytest.mark.slow
def test_every_stage_reads_and_writes_buckets(bucket, stage, tiny_bert, tiny_data, tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    config, data, run = tmp_path / "config.py", f"{bucket}/data", f"{bucket}/runs/one"
    store = fsspec.filesystem(bucket[:2])
    store.put(str(SAMPLE / "smollm2-135m-instruct.csv"), f"{bucket}/qa/one.csv")
    prepared = {"qa": SAMPLE, "encoder": tiny_bert, "out": data, "config": config, "lang": "eng", "workers": 1}
    ended(stage("prepare", **prepared))
    assert "is finished and the same" in ended(stage("prepare", **prepared))
    assert "records in" in ended(stage("prepare", verify=data))
    for path in tiny_data.iterdir():  # the same bytes as on a disk
        assert path.name == "manifest.json" or read(f"{data}/{path.name}") == path.read_bytes()

    here = {"config": config, "data": tiny_data, "workdir": tmp_path / "run"}
    ended(stage("train", **here))
    there = {"config": config, "data": data, "workdir": run}
    assert "finished 4 steps" in ended(stage("train", **there))
    store.invalidate_cache()
    store.rm(f"{run}/checkpoints/4", recursive=True)
    assert "going on after step 2" in ended(stage("train", **there))
    lines = [json.loads(line) for line in read(f"{run}/metrics.jsonl").splitlines()]
    plain = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(x["step"], x["loss"]) for x in lines] == [(x["step"], x["loss"]) for x in plain]
    store.invalidate_cache()
    assert store.ls(f"{run}/tensorboard")
    screen = ended(stage("train", status=True, workdir=run))
    assert "step     4 of 4" in screen and "saved    step 4" in screen and "now      finished" in screen

    ended(stage("export", workdir=run, out=f"{bucket}/model"))
    ended(stage("embed", model=f"{bucket}/model", qa=f"{bucket}/qa", out=f"{bucket}/e.parquet"))
    ended(stage("embed", model=run, qa=SAMPLE / "smollm2-135m-instruct.csv", out=tmp_path / "e.parquet"))
    import pyarrow.parquet as pq

    with store.open(f"{bucket}/e.parquet") as file:
        far = np.stack(pq.read_table(file)["embedding"].to_pylist())
    near = np.stack(pq.read_table(tmp_path / "e.parquet")["embedding"].to_pylist())
    np.testing.assert_allclose(far, near, atol=1e-6)


@pytest.mark.slow
def test_what_is_wrong_in_a_bucket_ends_in_one_line(bucket, stage, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIVAR_CACHE", str(tmp_path / "cache"))  # where no whole copy of these shards is
    (tmp_path / "config.py").write_text(CONFIG)
    store = fsspec.filesystem(bucket[:2])
    for path in tiny_data.iterdir():
        content = bytearray(path.read_bytes())
        if "train.tfrecord" in path.name:
            content[len(content) // 2] ^= 1
        store.pipe(f"{bucket}/damaged/{path.name}", bytes(content))
    given = {"config": tmp_path / "config.py", "workdir": tmp_path / "run"}
    done = stage("train", data=f"{bucket}/damaged", **given)
    assert done.returncode == 2
    assert f"{bucket}/damaged/univar-train.tfrecord-00000-of-00001 record" in done.stderr.splitlines()[-1]
    done = stage("train", data=f"{bucket}/nothing", **given)
    assert done.returncode == 2 and "manifest.json is missing" in done.stderr.splitlines()[-1]


def test_a_store_that_cannot_be_opened_is_told_with_the_cure(monkeypatch):
    with pytest.raises(UserError, match=r"--data=ftp://a: ftp:// is not known; give a local path, gs:// or s3://"):
        files.place("ftp://a", "data")
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--out=s3://a/b needs the package s3fs; pip install 'univar_jax\[s3\]'"):
        files.place("s3://a/b", "out")


def test_a_copy_in_the_cache_that_is_damaged_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIVAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "remote", lambda path: Path(path).name == "far")
    (tmp_path / "far").write_bytes(b"whole")
    sha256 = files.hash_of(tmp_path / "far")
    copy = files.copied(tmp_path / "far", sha256)
    assert copy.read_bytes() == b"whole" and copy.is_relative_to(tmp_path / "cache")
    copy.write_bytes(b"whol")
    assert files.copied(tmp_path / "far", sha256).read_bytes() == b"whole"
    assert os.path.dirname(copy) == str(tmp_path / "cache" / "copies")
