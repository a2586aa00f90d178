"""The push thread: the whole registry to a Pushgateway, at an interval, come what may."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import delete_from_gateway, push_to_gateway

JOB = "merlin_pyfunc_upi"
TIMEOUT_S = 5

log = logging.getLogger(__name__)


class Pusher:
    """Push until told to stop; then push once more and take the group away.

    An outage is logged when it begins and when it ends, and each failed push is counted.
    """

    def __init__(
        self,
        gateway: str,
        interval_s: float,
        model_name: str,
        model_version: str,
        registry: CollectorRegistry,
    ) -> None:
        self._gateway = gateway
        self._interval_s = interval_s
        self._model = {"merlin_model_name": model_name, "merlin_model_version": model_version}
        self._registry = registry
        self._stopping = threading.Event()
        self._is_down = False
        self._failures = Counter(
            "pyfuncserver_push_failures", "Pushes to the Pushgateway that failed.", registry=None
        )
        self._thread = threading.Thread(target=self._run, name="pusher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Push what is left and delete the group; takes at most a few timeouts."""
        self._stopping.set()
        self._thread.join(timeout=4 * TIMEOUT_S)

    def _run(self) -> None:
        # The host's name may take a resolver's timeout, so it is asked for here, once.
        group = {**self._model, "host": socket.getfqdn()}
        arguments: dict[str, Any] = {
            "job": JOB, "grouping_key": group, "timeout": TIMEOUT_S,
        }  # fmt: skip
        while True:
            self._try(lambda: push_to_gateway(self._gateway, registry=self._registry, **arguments))
            if self._stopping.wait(self._interval_s):
                break
        self._try(lambda: push_to_gateway(self._gateway, registry=self._registry, **arguments))
        self._try(lambda: delete_from_gateway(self._gateway, **arguments))

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001  the top of a thread that nothing may end
            self._failures.inc()
            if not self._is_down:
                log.warning("the Pushgateway %s cannot be reached: %s", self._gateway, error)
            self._is_down = True
        else:
            if self._is_down:
                log.info("the Pushgateway %s is back", self._gateway)
            self._is_down = False
