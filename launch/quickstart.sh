#!/usr/bin/env bash
# Real answers → a trained value encoder, its PyTorch export and a report. Usage: launch/quickstart.sh [OUT]
# Run it again and it goes on where it stopped, or says that all is done.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-quickstart}
began=$SECONDS
echo "budget on two cores: 15 minutes in all, of them 6 for training"
source launch/venv.sh
venv quickstart
installed=$SECONDS
config=configs/quickstart.py
sample=univar_jax/sample/qa

stage() { echo; echo "== $1"; python -m "univar_jax.$@"; }
# The English sources are trained and scored; the others are embedded and only shown on the map.
stage prepare --qa="$sample" --lang=eng --encoder=minilm --config="$config" --out="$out/data"
stage train --config="$config" --data="$out/data" --workdir="$out/run"
trained=$SECONDS
stage export --workdir="$out/run" --out="$out/model"
stage embed --model="$out/model" --qa="$sample" --out="$out/trained.parquet"
stage embed --model=minilm --qa="$sample" --out="$out/untouched.parquet"
stage analyze --embeddings="$out/trained.parquet,$out/untouched.parquet" --lang=eng --k=20 --out="$out/report"

echo
echo "took $((SECONDS - began)) s: $((installed - began)) s installing, $((trained - installed)) s preparing and training, $((SECONDS - trained)) s exporting, embedding and reporting"
echo "PyTorch:  SentenceTransformer(\"$out/model\")"
echo "report:   $out/report/report.html"
