from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyfuncserver.utils import logs

EVENT = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (?P<level>[A-Z]+) (?P<role>\S+) (?P<pid>\d+) "
    r"(?P<logger>\S+) (?P<rest>.*)"
)


@contextmanager
def marked(request_id: str) -> Iterator[None]:
    token = logs.mark(request_id)
    try:
        yield
    finally:
        logs.unmark(token)


def formatted(message: str, *args: object, **extra: object) -> list[str]:
    record = logging.LogRecord("a.logger", logging.INFO, __file__, 1, message, args, None)
    for name, value in extra.items():
        setattr(record, name, value)
    return logs.EventFormatter().format(record).split("\n")


def test_event() -> None:
    (line,) = formatted("hello %s", "world")
    match = EVENT.fullmatch(line)
    assert match
    assert match["level"] == "INFO"
    assert match["logger"] == "a.logger"
    assert match["rest"] == "hello world"


@pytest.mark.parametrize("message", ["a\nb", "a\r\nb", "\n", "a\n"])
def test_newlines_stay_in_the_line(message: str) -> None:
    (line,) = formatted(message)
    assert EVENT.fullmatch(line)
    assert "\r" not in line


def test_newlines_of_an_argument_stay_in_the_line() -> None:
    (line,) = formatted("%s", "2026-01-01T00:00:00.000Z INFO forged\n2026 INFO forged")
    assert line.endswith("forged\\n2026 INFO forged")


def test_lines_of_a_traceback_are_marked() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        first, *others = formatted("failed", exc_info=(ValueError, error, error.__traceback__))
    assert EVENT.fullmatch(first)
    assert others
    assert all(line.startswith("  | ") for line in others)
    assert others[-1] == "  | second"


def test_request_id_is_there_while_the_request_is() -> None:
    with marked("id-1"):
        (inside,) = formatted("x")
    (outside,) = formatted("x")
    assert " request_id=id-1 x" in inside
    assert "request_id" not in outside


def test_requests_nest() -> None:
    with marked("outer"):
        with marked("inner"):
            assert "request_id=inner " in formatted("x")[0]
        assert "request_id=outer " in formatted("x")[0]


def test_request_id_is_of_one_thread() -> None:
    seen: list[str] = []
    with marked("mine"):
        other = threading.Thread(target=lambda: seen.extend(formatted("x")))
        other.start()
        other.join(timeout=5)
    assert "mine" not in seen[0]


def test_process_logs_to_standard_error(run_script: Callable[..., str]) -> None:
    printed = run_script(r"""
        import logging, os, sys, warnings
        os.dup2(1, 2)  # run_script returns what is printed
        from pyfuncserver.utils import logs
        logs.configure("INFO")
        logs.set_role("worker-7")
        logging.getLogger("x").debug("not shown")
        logging.getLogger("x").info("shown\nin one line")
        logging.getLogger("tornado.access").error("said by the service already")
        warnings.simplefilter("always")
        warnings.warn("a warning\nof two lines")
        print(os.getpid(), flush=True)
    """)
    *events, pid = printed.splitlines()
    matches = [EVENT.fullmatch(line) for line in events]
    assert all(matches), printed
    assert [(m["logger"], m["role"], m["pid"]) for m in matches if m] == [
        ("x", "worker-7", pid),
        ("py.warnings", "worker-7", pid),
    ]


def test_libraries_that_bring_handlers_of_their_own_log_as_we_do(
    run_script: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {}", encoding="utf-8")
    # MLflow gives its loggers a handler and a format when it is imported.
    printed = run_script(
        r"""
        import os
        os.dup2(1, 2)
        import warnings
        warnings.simplefilter("ignore")
        from pyfuncserver.utils import logs
        logs.configure("INFO")
        from pyfuncserver.model import loader
        try:
            loader.load(os.environ["MODEL"])
        except Exception:
            pass
        import logging
        logs.mark("id-1")
        logging.getLogger("mlflow.pyfunc").warning("from mlflow\nin two lines")
    """,
        MODEL=str(tmp_path),
    )
    lines = [line for line in printed.splitlines() if "from mlflow" in line]
    assert len(lines) == 1
    match = EVENT.fullmatch(lines[0])
    assert match, lines
    assert "request_id=id-1" in match["rest"]
