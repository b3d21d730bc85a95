# Sourced by the other scripts: makes .venv with plain venv and pip, once; does nothing where it is there already.
# Usage: venv EXTRA   → a .venv that has univar_jax[EXTRA], and its bin first in PATH.

venv() {
  local extra=$1 stamp began=$SECONDS
  stamp=.venv/.$extra-$(sha256sum setup.py | cut -c1-16)
  if [[ ! -e $stamp ]]; then
    echo "installing univar_jax[$extra] into .venv: several minutes, most of them the network's"
    [[ -e .venv/bin/python ]] || "${PYTHON:-python3}" -m venv .venv
    # PyPI's torch for Linux is the CUDA build; the index of CPU builds comes first where it can be reached.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
      --extra-index-url https://download.pytorch.org/whl/cpu --editable ".[$extra]"
    touch "$stamp"
    echo "installed in $((SECONDS - began)) s"
  fi
  export PATH="$PWD/.venv/bin:$PATH"
}
