#!/usr/bin/env bash
# A run on a Cloud TPU slice by queued resources: asks for the slice, waits for it, installs, starts on all workers.
# Started again it goes on: the slice that is there is taken, the run goes on from its last checkpoint.
#
#   NAME=univar TYPE=v5litepod-16 ZONE=us-west4-a CONFIG=configs/large.py DATA=/mnt/data RUN=/mnt/run bash launch/tpu_vm.sh
#
# DATA and RUN: folders that all workers see (Filestore). Further words go to univar_jax.train. DRY=1 prints the commands.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${NAME:?of the slice}" "${TYPE:?accelerator type, such as v5litepod-16}" "${ZONE:?}" "${CONFIG:?}" "${DATA:?}" "${RUN:?}"
VERSION=${VERSION:-v2-alpha-tpuv5-lite}
SPOT=${SPOT:---spot}

run() {
  if [[ -n ${DRY:-} ]]; then printf '%q ' "$@" && echo; else "$@"; fi
}
ssh_all() {
  run gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"
}

if [[ -n ${DRY:-} ]] || ! gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" >/dev/null 2>&1; then
  run gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" --zone="$ZONE" \
    --accelerator-type="$TYPE" --runtime-version="$VERSION" "$SPOT"
fi
until [[ -n ${DRY:-} ]] || [[ $(gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" \
  --format='value(state.state)') == ACTIVE ]]; do
  sleep 30
done
run gcloud compute tpus tpu-vm scp --recurse --zone="$ZONE" --worker=all univar_jax configs setup.py README.md "$NAME:~/univar"
ssh_all "python3 -m venv ~/venv && ~/venv/bin/pip install --quiet ~/univar'[tpu]'"
words=$(printf '%q ' --config="$CONFIG" --data="$DATA" --workdir="$RUN" "$@")
ssh_all "cd ~/univar && ~/venv/bin/python -m univar_jax.train $words"
