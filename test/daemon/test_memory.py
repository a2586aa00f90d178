"""Workers share one copy of the model, and go on sharing it while they serve.

What is counted is the proportional memory (PSS): a page that three processes share counts a third
in each. The sum is taken over the whole daemon, so the host, which holds the pages as well, and
the supervisor are in it: it is what the daemon takes from the machine.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest
from harness import Daemon
from processes import memory_bytes

from pyfuncserver.utils import cgroups

Save = Callable[[str, Callable[[ModuleType, Path], Path]], Path]

GIB = 1 << 30
WEIGHTS_BYTES = GIB
LIMIT_BYTES = 1.25 * GIB
NEEDED_BYTES = 4 * GIB  # twice what would be taken if nothing were shared
PLACES = WEIGHTS_BYTES // 8
REQUESTS = 10_000
CLIENTS = 4
A_CONNECTION = 100
"""Requests; which worker takes a connection is left to chance."""


@pytest.mark.timeout(180)
def test_two_workers_share_the_weights_and_still_do_after_many_requests(
    save_model: Save,
) -> None:
    available = cgroups.memory_available_bytes()
    if available is not None and available < NEEDED_BYTES:
        pytest.skip(f"NOT TESTED: {available / GIB:.1f} GiB of memory, of which 4 are needed")
    weights = save_model("weights", lambda models, path: models.save(models.Weights(), path))
    with Daemon(weights, env={"WORKERS": "2", "LOG_LEVEL": "WARNING"}) as daemon:
        before = proportional_bytes(daemon)
        served = ask_many(daemon)
        after = proportional_bytes(daemon)
        assert served.total() == REQUESTS
        assert set(served) == daemon.worker_pids()
        assert WEIGHTS_BYTES < before < LIMIT_BYTES
        assert WEIGHTS_BYTES < after < LIMIT_BYTES


def proportional_bytes(daemon: Daemon) -> int:
    return sum(memory_bytes(pid)[1] for pid in {daemon.pid, *daemon.processes()})


def ask_many(daemon: Daemon) -> Counter[int]:
    """Ask by several connections for weights all over the array; count answers by worker."""
    served: Counter[int] = Counter()
    lock = threading.Lock()

    def ask(client: int) -> None:
        with closing(daemon.connection()) as connection:
            for nth, number in enumerate(range(client, REQUESTS, CLIENTS), start=1):
                if nth % A_CONNECTION == 0:
                    connection.close()  # the next request makes another
                place = number * (PLACES // REQUESTS)
                answer = daemon.predict({"instances": [[place]]}, connection=connection).json()
                weight, feature, pid = answer["predictions"]
                assert (weight, feature) == (place, f"feature-{place % 10_000}")
                with lock:
                    served[pid] += 1

    clients = [threading.Thread(target=ask, args=(client,)) for client in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return served
