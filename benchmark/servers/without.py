"""Our server with parts of it replaced by nothing: `python without.py metrics,ids --model_dir DIR`.

`metrics`: nothing is counted. `ids`: every request has the same id, and no log line would know it.
`admission`: no lane, no deadline; whatever comes is run at once, on the thread that it came on.
What such a server takes less for a request is what the part costs.
"""

import sys
import time

from pyfuncserver import server
from pyfuncserver.metrics import meters
from pyfuncserver.model import exchange, lane
from pyfuncserver.protocol import request_id
from pyfuncserver.utils import logs


def without_metrics() -> None:
    for name in ("arrive", "queue", "turn_away", "leave_queue", "enter_at_once", "settle"):
        setattr(meters.Meters, name, lambda *_: None)


def without_ids() -> None:
    request_id.take_or_make = lambda _given: "0" * 32
    logs.mark = lambda _id: None
    logs.unmark = lambda _token: None


def without_admission() -> None:
    def run(_lane, job) -> bool:
        job.run(meters.LOOP)
        job.finish()
        return True

    lane.Lane.run_on_loop = lane.Lane.run_here = run
    exchange.Exchange._start = lambda _exchange: time.monotonic()


PARTS = {"metrics": without_metrics, "ids": without_ids, "admission": without_admission}

for part in filter(None, sys.argv[1].split(",")):
    PARTS[part]()
sys.exit(server.main(sys.argv[2:]))
