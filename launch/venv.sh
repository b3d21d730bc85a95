# shellcheck shell=bash
# Sourced by the other scripts. `venv EXTRA[,EXTRA]` makes .venv with plain venv and pip where it lacks univar_jax[EXTRA]
# and puts its bin first in PATH; the second time it does nothing. VENV=FOLDER: another place.

venv() {
  local extra=$1 home=${VENV:-.venv} began=$SECONDS stamp pip
  stamp=$home/.univar_jax-$extra-$(sha256sum setup.py | cut -c1-16)
  if [[ ! -e $stamp ]]; then
    echo "installing univar_jax[$extra] into $home: some minutes, most of them the network's"
    [[ -x $home/bin/python ]] || "${PYTHON:-python3}" -m venv "$home"
    # Python compiles what it imports, a small part of it all; pip would compile every file, for half of its time.
    pip=("$home/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile)
    # PyPI's torch for Linux is the CUDA build of several GB; the index of CPU builds goes first where it can be
    # reached. On its own: pip asks every index for every package. Beam's venv and the local LLM's need none.
    [[ $extra == @(beam|local*) ]] || "${pip[@]}" --quiet --retries 0 --timeout 10 \
      --extra-index-url https://download.pytorch.org/whl/cpu "torch>=2.13,<2.14"
    "${pip[@]}" --editable ".[$extra]"
    touch "$stamp"
    echo "installed in $((SECONDS - began)) s"
  fi
  export PATH="$PWD/$home/bin:$PATH"
  [[ $home != /* ]] || export PATH="$home/bin:$PATH"
}
