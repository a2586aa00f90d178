"""What Seldon's own client sees, of a component over REST or gRPC: written as JSON.

`seldon.py rest|grpc HOST:PORT`
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from seldon_core.seldon_client import SeldonClient
from seldon_core.utils import seldon_message_to_json

NAMES = ["do", "x"]


class Component:
    def __init__(self, transport: str, address: str) -> None:
        self.transport, self.address = transport, address
        self.client = SeldonClient(microservice_endpoint=address, gateway_endpoint=address)

    def ask(self, *rows: tuple[float, float], payload_type: str = "ndarray") -> Any:
        return self.client.microservice(
            transport=self.transport,
            method="predict",
            data=np.array(rows, np.float64),
            names=NAMES,
            payload_type=payload_type,
        )

    def data(self, payload_type: str) -> Any:
        found = self.ask((0, 1.5), (0, 2), payload_type=payload_type)
        assert found.success, found.msg
        return seldon_message_to_json(found.response)["data"]

    def failure(self, *rows: tuple[float, float]) -> Any:
        found = self.ask(*rows)
        said = None if found.response is None else seldon_message_to_json(found.response)["status"]
        return [found.success, found.msg, said]

    def feedback(self) -> Any:
        sent = self.ask((0, 1.5))
        found = self.client.microservice_feedback(
            sent.request, sent.response, 1.0, transport=self.transport
        )
        return [found.success, found.msg]

    def through_gateway(self) -> Any:
        found = self.client.predict(
            gateway="seldon",
            transport=self.transport,
            data=np.array([(0, 1.5)]),
            names=NAMES,
            payload_type="ndarray",
            client_return_type="dict",
        )
        return found.response["data"] if found.success else found.msg


def main(transport: str, address: str) -> None:
    component = Component(transport, address)
    found = {
        "ndarray": component.data("ndarray"),
        "tensor": component.data("tensor"),
        "gateway": component.through_gateway(),
        "feedback": component.feedback(),
        "raises": component.failure((1, 1)),
        "refuses": component.failure((2, 1)),
    }
    json.dump(found, sys.stdout)


main(*sys.argv[1:])
