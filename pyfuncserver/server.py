"""Composes a daemon: configuration, logs, ports, the metrics directory, the supervisor."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pyfuncserver import config as configuration
from pyfuncserver.config import Config
from pyfuncserver.errors import StartupError
from pyfuncserver.metrics import directory
from pyfuncserver.model import addresses
from pyfuncserver.ports import open_ports
from pyfuncserver.scoreboard import Scoreboard
from pyfuncserver.supervisor import Supervisor, slots_of
from pyfuncserver.utils import cgroups, logs, processes, sockets, tls, tokens, tracing

log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """Serve as flags and variables say; give the process's exit status."""
    _open_missing_streams()
    try:
        config = configuration.read(argv)
        logs.configure(config.log_level.value)
        _warn(config, argv)
        if config.tracing:
            tracing.check(os.environ)
        return _try_load(config) if config.dry_run else _serve(config)
    except StartupError as error:
        _say(str(error))
        return error.status
    except KeyboardInterrupt:  # before the supervisor listens to signals
        return 128 + signal.SIGINT


def _open_missing_streams() -> None:
    """Put /dev/null where a standard stream is closed, or the next pipe would take its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(descriptor)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w", closefd=False))


def _check_file(name: str, path: str) -> None:
    target = Path(path)
    if path and (target.is_dir() or not os.access(target.absolute().parent, os.W_OK)):
        raise StartupError(f"{name}={path!r} cannot be written")


@contextmanager
def _pidfile(path: str) -> Iterator[None]:
    """Keep the daemon's process id in a file, which somebody else may have put his in meanwhile."""
    if not path:
        yield
        return
    file, own = Path(path).absolute(), f"{os.getpid()}\n"
    try:
        file.write_text(own, encoding="ascii")
    except OSError as error:
        raise StartupError(f"PIDFILE={path!r} cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        try:
            if file.read_text(encoding="ascii") == own:
                file.unlink()
        except (OSError, ValueError) as error:
            log.warning("PIDFILE=%s cannot be removed: %s", file, error)


def _say(line: str) -> None:
    """Tell the one who started the daemon, whatever LOG_LEVEL says."""
    sys.stderr.write(f"pyfuncserver: {line}\n")


def _warn(config: Config, argv: Sequence[str] = ()) -> None:
    for line in configuration.contradictions(list(argv), os.environ):
        log.warning("%s", line)
    for name in configuration.unknown_variables(os.environ):
        log.warning("%s is not a setting of pyfuncserver and has no effect", name)
    if config.pushgateway_enabled and not config.speaks_upi:
        log.warning("PUSHGATEWAY_ENABLED has no effect: metrics are pushed only with UPI_V1")
    if config.model_schema is not None:
        log.debug("the schema of %s: %s", config.full_name, config.model_schema)


def _serve(config: Config) -> int:
    _check_file("READY_FILE", config.ready_file)
    _check_file("PIDFILE", config.pidfile)
    tls.check(config.tls_cert, config.tls_key, config.tls_client_ca)
    tokens.check(config.token_file)
    sockets.raise_descriptor_limit()
    log.info(cgroups.limit_threads(os.environ, config.workers))
    log.info(cgroups.describe_memory())
    ports = open_ports(config)
    scoreboard = Scoreboard(slots_of(config))
    with (
        directory.prepared(config.prometheus_multiproc_dir) as metrics_dir,
        _pidfile(config.pidfile),
    ):
        try:
            return Supervisor(config, ports, scoreboard, metrics_dir).run()
        finally:
            ports.close()


def _try_load(config: Config) -> int:
    """Load the model in a child, since it may do to a process what it likes."""

    def child() -> int:
        from pyfuncserver.metrics import instruments
        from pyfuncserver.model import loader
        from pyfuncserver.model.roster import gather

        processes.die_with_parent(signal.SIGKILL)
        logs.set_role("dry-run")
        instruments.install("dry-run")
        try:
            path = loader.locate(config.address, config.model_cache_dir)
            found = gather(config, str(path)).catalogue
        except StartupError as error:
            _say(str(error))
            return error.status
        failed = [entry for entry in found if not entry.is_loaded]
        for entry in failed:
            _say(entry.why_not)
        return 1 if failed else 0

    with directory.prepared(config.prometheus_multiproc_dir):
        _, status = os.waitpid(processes.fork(child), 0)
    address = addresses.shown(config.address)
    if status == 0:
        what = "models of" if config.model_repository else "model"
        _say(f"the {what} {address} can be loaded and served")
        return 0
    if not os.WIFEXITED(status):
        _say(f"loading {address}: the process {processes.describe_exit(status)}")
    is_remote = addresses.is_remote(config.address)
    requirements = "its requirements.txt" if is_remote else f"{address}/requirements.txt"
    _say(
        "what to do: see that --model_dir holds an MLmodel file, and that this environment has "
        f"what the model needs (pip install -r {requirements}); LOG_LEVEL=DEBUG shows more"
    )
    return 1
