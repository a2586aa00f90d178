"""An echo in KServe's SDK, V1 protocol."""

import argparse

import kserve


class Echo(kserve.Model):
    def __init__(self) -> None:
        super().__init__("echo")
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):
        return {"predictions": payload["instances"]}


argparse.ArgumentParser(parents=[kserve.model_server.parser]).parse_known_args()
kserve.ModelServer(workers=1).start([Echo()])
