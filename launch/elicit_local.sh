#!/usr/bin/env bash
# A real LLM on this machine → its answers: starts llama.cpp's server, elicits, stops it. Needs no model hub.
# Usage: [MODEL=FILE.gguf] launch/elicit_local.sh [OUT] [further flags of elicit]
# Without MODEL it is SmolLM2-135M-Instruct. Run again, it goes on where it stopped, or says that all is done.
set -euo pipefail
cd "$(dirname "$0")/.."
out=elicited
if [[ ${1:-} != --* && -n ${1:-} ]]; then
  out=$1
  shift
fi
source launch/venv.sh
venv local,elicit

# One slot: the same question and seed get the same answer. Its line is "URL NAME …", or none where it cannot start.
coproc python -m univar_jax.serve --model="${MODEL:-smollm2}" --slots=1
server=$COPROC_PID
trap 'kill "$server" 2>/dev/null || true' EXIT
trap 'exit 143' TERM
read -r url name _ <&"${COPROC[0]}" || { wait "$server" && exit 1; }
echo "$name answers at $url"

python -m univar_jax.elicit --questions=univar_jax/sample/questions.csv --lang=eng \
  --base_url="$url" --model="$name" --out="$out" "$@"
echo "answers:    $out/qa/$name.csv"
