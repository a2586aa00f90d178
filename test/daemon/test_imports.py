"""The supervisor has little in it: it must live when a model's libraries crash, and start fast."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from harness import Daemon, daemon_environment, wait_until

SETTINGS = {
    *("pydantic", "pydantic_core", "pydantic_settings"),
    *("annotated_types", "dotenv", "typing_extensions", "typing_inspection"),
}
"""The packages that read the settings are all that the supervisor imports of others."""

MODEL_SIDE = ("grpc", "httptools", "mlflow", "numpy", "orjson", "pandas", "pyarrow", "uvloop")

# The children end by os._exit, so that only the supervisor comes to the last line.
RUN_AND_TELL = """
import json, sys
from pyfuncserver import server
status = server.main(sys.argv[2:])
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump(sorted(sys.modules), file)
sys.exit(status)
"""


def test_all_that_the_supervisor_has_imported_by_its_end(echo_model: Path, tmp_path: Path) -> None:
    ready, modules = tmp_path / "ready.json", tmp_path / "modules.json"
    command = [sys.executable, "-c", RUN_AND_TELL, str(modules), "--model_dir", str(echo_model)]
    env = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1", "WORKERS": "2", "READY_FILE": str(ready)}
    process = subprocess.Popen(command, env=daemon_environment(env), cwd=tmp_path)
    try:
        wait_until(lambda: ready.exists() or process.poll() is not None, 60, "it is ready")
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(10)
    imported = {name.partition(".")[0] for name in json.loads(modules.read_text())}
    # An editable installation and pip's environments bring modules of their own.
    local = {name for name in imported if name.startswith(("_", "sitecustomize", "distutils"))}
    others = imported - sys.stdlib_module_names - local - {"pyfuncserver"}
    assert others <= SETTINGS, f"the supervisor has imported {sorted(others - SETTINGS)}"
    assert "pydantic" in others, "nothing was listed"


def test_no_shared_object_of_the_models_side_is_mapped(echo_model: Path) -> None:
    env = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1", "WORKERS": "2"}
    with Daemon(echo_model, env=env) as daemon:
        daemon.predict({"instances": [[1.0]]})
        (worker, *_) = daemon.worker_pids()
        assert {"grpc", "numpy", "uvloop"} <= packages_mapped(worker)
        assert not packages_mapped(daemon.pid) & set(MODEL_SIDE)


def packages_mapped(pid: int) -> set[str]:
    """Give the packages of whose directories the process has files in its memory."""
    maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    return set(re.findall(r"/(?:site|dist)-packages/([A-Za-z0-9_]+)", maps))
