"""What Triton's own client sees, over HTTP (JSON and binary) and gRPC: written as JSON.

`triton.py http|grpc HOST:PORT` asks the model that says; `... echo` the one that echoes.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from queue import SimpleQueue
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

WAIT_S = 30
ARRAYS = {
    "bool": np.array([True, False]),
    "int8": np.array([-128, 127], np.int8),
    "uint64": np.array([0, 2**64 - 1], np.uint64),
    "fp16": np.array([0.5, -2], np.float16),
    "fp32": np.array([0.5, -2], np.float32),
    "bytes": np.array(["\N{SNOWMAN}".encode(), b""], object),
}


class Side:
    """One of the client's two halves, which differ a little."""

    def __init__(self, kind: str, address: str) -> None:
        self.is_http = kind == "http"
        self.address = address
        self.library = importlib.import_module(f"tritonclient.{kind}")
        self.client = self.library.InferenceServerClient(address)
        self.found: SimpleQueue[Any] = SimpleQueue()
        self.as_json = {} if self.is_http else {"as_json": True}

    def input(self, name: str, values: np.ndarray, is_binary: bool) -> Any:
        made = self.library.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
        made.set_data_from_numpy(values, **self.binary(is_binary))
        return made

    def wish(self, name: str, is_binary: bool) -> Any:
        return self.library.InferRequestedOutput(name, **self.binary(is_binary))

    def binary(self, is_binary: bool) -> dict[str, bool]:
        return {"binary_data": is_binary} if self.is_http else {}

    def rows(self, *rows: tuple[float, float], is_binary: bool = True) -> list[Any]:
        columns = np.array(rows, np.float64).T
        return [
            self.input(name, np.ascontiguousarray(column), is_binary)
            for name, column in zip(("do", "x"), columns, strict=True)
        ]

    def total(self, **options: Any) -> list[float]:
        is_binary = options.pop("is_binary", True)
        answer = self.client.infer(
            "model",
            self.rows((0, 1.5), (0, 2), is_binary=is_binary),
            outputs=[self.wish("total", is_binary)],
            **options,
        )
        return answer.as_numpy("total").tolist()

    def failure(self, *rows: tuple[float, float], model: str = "model") -> list[str]:
        try:
            self.client.infer(model, self.rows(*rows))
        except InferenceServerException as error:
            return [str(error.status()), str(error.message())]
        return []

    def inference(self) -> dict[str, Any]:
        answer = self.client.infer(
            "model", self.rows((0, 1.5)), model_version="1", request_id="mine", timeout=5_000_000
        )
        response = answer.get_response(**self.as_json)
        async_answer = self.client.async_infer("model", self.rows((0, 4)), *self.callback())
        return {
            "binary": self.total(),
            "json": self.total(is_binary=False),
            "compressed": self.total(**self.compression()),
            "async": self.result(async_answer).as_numpy("total").tolist(),
            "aio": asyncio.run(self.from_aio()),
            "id": response["id"],
            "version": response["model_version"],
            "raises": self.failure((1, 1)),
            "refuses": self.failure((2, 1)),
            "another": self.failure((0, 1), model="other"),
        }

    def callback(self) -> list[Any]:
        if self.is_http:
            return []
        return [lambda result, error: self.found.put((result, error))]

    def result(self, request: Any) -> Any:
        if self.is_http:
            return request.get_result()
        result, error = self.found.get(timeout=WAIT_S)
        assert error is None, error
        return result

    def compression(self) -> dict[str, str]:
        if self.is_http:
            return {"response_compression_algorithm": "gzip"}  # which a server may ignore
        return {"compression_algorithm": "gzip"}

    async def from_aio(self) -> list[float]:
        library = importlib.import_module(f"{self.library.__name__}.aio")
        async with library.InferenceServerClient(self.address) as client:
            answer = await client.infer("model", self.rows((0, 8)))
            return answer.as_numpy("total").tolist()

    def server(self) -> dict[str, Any]:
        client = self.client
        metadata = client.get_server_metadata(**self.as_json)
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready("model"),
            "other_ready": client.is_model_ready("model", "2") if self.is_http else False,
            "name": metadata["name"],
            "extensions": metadata["extensions"],
            "model": client.get_model_metadata("model", **self.as_json),
            "index": client.get_model_repository_index(**self.as_json),
            "unload": [client.unload_model("model"), self.becomes_ready(False)],
            "load": [client.load_model("model"), self.becomes_ready(True)],
        }

    def becomes_ready(self, wanted: bool) -> bool:
        """Wait until the model is so: over gRPC this connection has its age before it moves on."""
        deadline = time.monotonic() + 60
        while self.client.is_model_ready("model") is not wanted and time.monotonic() < deadline:
            time.sleep(0.1)
        return bool(self.client.is_model_ready("model"))

    def echo(self) -> dict[str, Any]:
        both = {"binary": self.echoed(True, dict(ARRAYS))}
        if self.is_http:
            both["json"] = self.echoed(False, {**ARRAYS, "fp16": np.zeros(2, np.float32)})
        return both

    def echoed(self, is_binary: bool, arrays: dict[str, np.ndarray]) -> list[str]:
        """Give the names of those that came back as they went."""
        inputs = [self.input(name, values, is_binary) for name, values in arrays.items()]
        answer = self.client.infer(
            "model", inputs, outputs=[self.wish(name, is_binary) for name in arrays]
        )
        return [name for name, values in arrays.items() if is_same(values, answer.as_numpy(name))]


def is_same(sent: np.ndarray, found: np.ndarray) -> bool:
    if sent.dtype == object:  # JSON has no bytes, and Triton's client gives what JSON has
        found = np.array([e.encode() if isinstance(e, str) else e for e in found], object)
    return sent.dtype == found.dtype and bool((sent == found).all())


def main(kind: str, address: str, *what: str) -> None:
    side = Side(kind, address)
    found = side.echo() if what else {"inference": side.inference(), "server": side.server()}
    side.client.close()
    json.dump(found, sys.stdout)


main(*sys.argv[1:])
