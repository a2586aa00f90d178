from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness import run_daemon_expecting_exit

HEAVY = "grpc mlflow numpy pandas prometheus_client tornado google.protobuf"


def test_supervisor_pays_for_no_library_of_the_models_side(run_script: Callable[..., str]) -> None:
    printed = run_script(f"""
        import sys
        import pyfuncserver.server
        print([name for name in {HEAVY.split()} if name in sys.modules])
    """)
    assert printed.strip() == "[]"


def test_entry_point_pays_no_more(run_script: Callable[..., str]) -> None:
    printed = run_script(f"""
        import sys
        import pyfuncserver.__main__
        print([name for name in {HEAVY.split()} if name in sys.modules])
    """)
    assert printed.strip() == "[]"


def test_dry_run_of_a_missing_model_says_what_to_do(tmp_path: Path) -> None:
    missing = str(tmp_path / "none")
    status, output = run_daemon_expecting_exit(["--model_dir", missing, "--dry_run"])
    assert status == 1
    assert "Traceback" not in output
    assert missing in output
    assert "what to do" in output
