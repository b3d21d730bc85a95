#!/usr/bin/env bash
# Lint and tests, in a .venv that this script makes itself. --slow: also the tests that take minutes.
# Other arguments go to pytest: launch/test.sh tests/test_views.py -k disjoint
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/venv.sh
venv test
marks="not slow"
if [[ ${1:-} == --slow ]]; then
  marks=""
  shift
fi
ruff format --check .
ruff check .
python -m pytest -m "$marks" "$@"
