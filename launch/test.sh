#!/usr/bin/env bash
# Lint and tests, in a .venv that this script makes itself. --slow: also the tests that take minutes.
# Other arguments go to pytest: launch/test.sh tests/test_views.py -k disjoint
# Two processes, since most of a test is one core compiling; TEST_WORKERS=N says another number.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/venv.sh
marks="not slow" extra=test
if [[ ${1:-} == --slow ]]; then
  marks="" extra=slow
  shift
fi
venv "$extra"
ruff format --check .
ruff check .
shellcheck --external-sources launch/*.sh launch/slurm.sbatch .ci/run
python -m pytest -n "${TEST_WORKERS:-2}" --dist loadfile -m "$marks" "$@"
