"""Real weights on real texts against torch: MiniLM, and slowly the folders that the environment names."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.parity import LIMITS, exported, real, real_model, vectors_apart, whole
from univar_jax import export
from univar_jax.encoders import models, weights

pytest.importorskip("sentence_transformers", reason="needs torch: pip install 'univar_jax[torch]'")

# Any encoders; one without a tokenizer gets MiniLM's, whose vocabulary is bert-base-uncased's.
FOLDERS = [folder for folder in os.environ.get("UNIVAR_MODELS", "").split(",") if folder]
# nomic-embed-text-v1.5, and vectors of it that were made elsewhere.
NOMIC = os.environ.get("UNIVAR_NOMIC")
FIXTURE = Path(
    os.environ.get("UNIVAR_NOMIC_FIXTURE") or ROOT.parent / "shared" / "fixtures" / "nomic_v15_embeddings.npz"
)
needs_nomic = pytest.mark.skipif(not NOMIC, reason="set UNIVAR_NOMIC=FOLDER to a folder of nomic-embed-text-v1.5")


def apart(folder, shortest, longest, count):
    """Real texts packed into rows against transformers, one text at a time."""
    config = models.read_config(folder)
    assert config.positions >= longest
    texts = real(folder, shortest, longest, count)
    return vectors_apart(config, weights.load(folder, config), real_model(folder), texts, longest)


@pytest.fixture
def nomic(tmp_path):
    return whole(NOMIC, tmp_path)


def test_minilm_on_texts_to_its_512_tokens(minilm):
    assert apart(minilm, 10, 512, 8) <= LIMITS[0]


@pytest.mark.slow
@pytest.mark.skipif(not FOLDERS, reason="set UNIVAR_MODELS=FOLDER[,FOLDER…] to Hugging Face folders of real encoders")
@pytest.mark.parametrize("folder", FOLDERS or ["none"], ids=lambda folder: Path(folder).name)
def test_a_real_folder_on_texts_to_2000_tokens(folder, tmp_path, capsys):
    base = whole(folder, tmp_path)
    longest = min(2000, models.read_config(base).positions)
    found = apart(base, 10, longest, 10)
    with capsys.disabled():
        print(f"\n{Path(folder).name}: {found:.1e} on texts of 10 to {longest} tokens")
    assert found <= LIMITS[0]


@pytest.mark.slow
@needs_nomic
@pytest.mark.skipif(not FIXTURE.exists(), reason="set UNIVAR_NOMIC_FIXTURE=FILE.npz to a file of texts and emb")
def test_nomic_equals_the_vectors_made_elsewhere(nomic, capsys):
    with np.load(FIXTURE) as fixture:
        texts, theirs_nd = fixture["texts"].tolist(), fixture["emb"]
    found = np.abs(export.embed_jax(nomic, texts) - theirs_nd).max()
    with capsys.disabled():
        print(f"\n{FIXTURE.name}: {found:.1e} on {len(texts)} texts")
    assert found <= 3e-4


@pytest.mark.slow
@needs_nomic
def test_nomic_beyond_its_configs_2048_tokens(nomic, tmp_path, capsys):
    longer = tmp_path / "longer"
    longer.mkdir()
    for path in nomic.iterdir():
        (longer / path.name).symlink_to(path.resolve())
    (longer / "config.json").unlink()
    config = json.loads((nomic / "config.json").read_text()) | {"max_position_embeddings": 8192}
    (longer / "config.json").write_text(json.dumps(config))
    found = apart(longer, 4096, 4096, 1)  # 8,192 tokens take 13 GB and minutes; done once it was 3.3e-07
    with capsys.disabled():
        print(f"\nnomic: {found:.1e} on one text of 4096 tokens")
    assert found <= LIMITS[0]


@pytest.mark.slow
@needs_nomic
def test_nomics_export_is_a_folder_for_torch(nomic, tmp_path, capsys):
    params = weights.load(nomic, models.read_config(nomic))
    found, same = exported(nomic, params, tmp_path / "out")  # by SentenceTransformer with no trust_remote_code
    with capsys.disabled():
        print(f"\nexport of nomic: {found:.1e}")
    assert same and found <= LIMITS[2]
    from transformers import AutoModel

    _, told = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told.values()), told
