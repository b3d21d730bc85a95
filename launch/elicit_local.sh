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

# One slot: the same question and seed get the same answer. Its one line is "URL NAME …"; where it cannot start there
# is none, but its error. Ctrl-C is for elicit, which lets what is under way be answered.
exec 3< <(trap "" INT && exec python -m univar_jax.serve --model="${MODEL:-smollm2}" --slots=1)
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
if ! read -r url name _ <&3; then
  wait "$server"
  exit 1
fi
# The sample's questions and settings, so that the answers stand beside the sample's on the map. One request at a time,
# as one slot answers them: those that wait would run out of time.
python -m univar_jax.elicit --questions=univar_jax/sample/questions.csv --lang=eng --max_new_tokens=64 --top_p=0.95 \
  --concurrency=1 --base_url="$url" --model="$name" --out="$out" "$@"
echo "answers:    $out/qa/$name.csv"
