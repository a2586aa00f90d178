#!/usr/bin/env bash
# Serve the model in $MODEL_DIR (./model where unset), inside the environment `merlin-model`
# where there is one: that of an installed conda, else a folder that holds one, conda's or virtual.
# Arguments are handed on to the server; its settings are environment variables as well.
set -euo pipefail

readonly ENV_NAME=merlin-model

activate() {
  if command -v conda >/dev/null && conda env list | grep "^${ENV_NAME} " >/dev/null; then
    eval "$(conda shell.bash hook)"
    conda activate "${ENV_NAME}"
    return
  fi
  local prefix
  for prefix in "/opt/${ENV_NAME}" "${HOME:-/root}/${ENV_NAME}"; do
    if [[ -d "${prefix}/conda-meta" ]]; then
      activate_without_conda "${prefix}"
      return
    fi
    if [[ -r "${prefix}/bin/activate" ]]; then
      # shellcheck source=/dev/null
      source "${prefix}/bin/activate"
      return
    fi
  done
}

activate_without_conda() {
  export CONDA_PREFIX="$1" CONDA_DEFAULT_ENV="${ENV_NAME}" PATH="$1/bin:${PATH}"
  local script
  for script in "${CONDA_PREFIX}"/etc/conda/activate.d/*.sh; do
    if [[ -r "${script}" ]]; then
      # shellcheck source=/dev/null
      source "${script}" || echo "run.sh: ${script} ended with status $?" >&2
    fi
  done
}

set +u # activation scripts read variables that may be unset
activate
set -u

# exec: the server gets the container's signals, and its exit status is the container's.
exec python -m pyfuncserver --model_dir "${MODEL_DIR:-./model}" "$@"
