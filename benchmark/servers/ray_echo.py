"""An echo in Ray Serve: `python ray_echo.py PORT`; one proxy and one replica."""

import signal
import sys

import ray
from ray import serve


@serve.deployment(num_replicas=1, max_ongoing_requests=100)
class Echo:
    async def __call__(self, request):
        return {"predictions": (await request.json())["instances"]}


ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(Echo.bind(), route_prefix="/predict", logging_config={"enable_access_log": False})
signal.pause()
