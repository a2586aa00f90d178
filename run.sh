#!/usr/bin/env bash
# Serve the model in $MODEL_DIR (./model where unset), inside the environment `merlin-model`
# where there is one: a conda environment of that name, else a virtual environment.
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
    if [[ -r "${prefix}/bin/activate" ]]; then
      # shellcheck source=/dev/null
      source "${prefix}/bin/activate"
      return
    fi
  done
}

set +u # activation scripts read variables that may be unset
activate
set -u

# exec: the server gets the container's signals, and its exit status is the container's.
exec python -m pyfuncserver --model_dir "${MODEL_DIR:-./model}" "$@"
