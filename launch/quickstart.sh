#!/usr/bin/env bash
# Real answers → a trained value encoder, its PyTorch export and a report.
# Usage: launch/quickstart.sh [OUT] [--config.KEY=VALUE …]
# Run again, it goes on where it stopped, or says that all is done.
set -euo pipefail
cd "$(dirname "$0")/.."
out=quickstart
if [[ ${1:-} != --* && -n ${1:-} ]]; then
  out=$1
  shift
fi
config=(--config=configs/quickstart.py "$@")
sample=univar_jax/sample/qa

echo "budget on two cores: 15 minutes in all, 6 of them training"
began=$SECONDS
source launch/venv.sh
venv quickstart
installed=$SECONDS

stage() {
  echo
  local name=$1 from=$SECONDS
  echo "== $name"
  python -m "univar_jax.$name" "${@:2}"
  echo "-- $name: $((SECONDS - from)) s"
}
# The English sources are trained and scored; the others are embedded and only shown on the map.
stage prepare --qa="$sample" --lang=eng --encoder=minilm --out="$out/data" "${config[@]}"
stage train --data="$out/data" --workdir="$out/run" "${config[@]}"
stage export --workdir="$out/run" --out="$out/model"
stage embed --model="$out/model" --qa="$sample" --out="$out/trained.parquet"
stage embed --model=minilm --qa="$sample" --out="$out/untouched.parquet"
stage analyze --embeddings="$out/trained.parquet,$out/untouched.parquet" --lang=eng --k=20 --out="$out/report"

echo
echo "took $((SECONDS - began)) s, of them $((installed - began)) s installing (the network's share)"
echo "in PyTorch: SentenceTransformer(\"$out/model\")"
echo "report:     $out/report/report.html"
