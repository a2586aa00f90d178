"""What KServe's own clients see, over V1, V2 and V2's gRPC: written as JSON.

`kserve.py v1|v2|grpc HOST:PORT`
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve.inference_client import InferenceGRPCClient, InferenceRESTClient, RESTConfig
from kserve.protocol.infer_type import InferInput, InferRequest

Rows = tuple[tuple[float, float], ...]


def request(rows: Rows, model: str, is_binary: bool) -> Any:
    inputs = []
    for name, column in zip(("do", "x"), np.array(rows, np.float64).T, strict=True):
        made = InferInput(name, list(column.shape), "FP64")
        made.set_data_from_numpy(np.ascontiguousarray(column), binary_data=is_binary)
        inputs.append(made)
    return InferRequest(model_name=model, infer_inputs=inputs, request_id="mine")


def total(response: Any) -> dict[str, Any]:
    (output,) = response.outputs
    return {
        "id": response.id,
        "model": response.model_name,
        output.name: output.as_numpy().tolist(),
    }


class V1:
    def __init__(self, address: str) -> None:
        self.client = InferenceRESTClient(RESTConfig(protocol="v1"))
        self.url = f"http://{address}"

    async def infer(self, *rows: tuple[float, float], model: str = "model-1") -> Any:
        body = {"instances": [dict(zip(("do", "x"), row, strict=True)) for row in rows]}
        return await self.client.infer(self.url, body, model_name=model)

    async def all(self) -> dict[str, Any]:
        """Ask all but whether the server lives: Merlin's has another answer to that.

        KServe's is JSON, ``{"status": "alive"}``, for which the client does not ask by a header.
        """
        return {
            "answer": await self.infer((0, 1.5), (0, 2)),
            "model_ready": await self.client.is_model_ready(self.url, "model-1"),
            "another": await failure(self.infer((0, 1), model="other")),
            "raises": await failure(self.infer((1, 1))),
            "refuses": await failure(self.infer((2, 1))),
        }


class V2:
    def __init__(self, address: str) -> None:
        self.client = InferenceRESTClient(RESTConfig(protocol="v2"))
        self.url = f"http://{address}"

    async def infer(
        self, *rows: tuple[float, float], model: str = "model", is_binary: bool = False
    ) -> Any:
        made = request(rows, model, is_binary)
        return total(await self.client.infer(self.url, made, model_name=model))

    async def all(self) -> dict[str, Any]:
        return {
            "answer": await self.infer((0, 1.5), (0, 2)),
            "binary": await self.infer((0, 1.5), (0, 2), is_binary=True),
            "live": await self.client.is_server_live(self.url),
            "ready": await self.client.is_server_ready(self.url),
            "model_ready": await self.client.is_model_ready(self.url, "model"),
            "another": await failure(self.infer((0, 1), model="other")),
            "raises": await failure(self.infer((1, 1))),
            "refuses": await failure(self.infer((2, 1))),
        }


class Grpc:
    def __init__(self, address: str) -> None:
        self.client = InferenceGRPCClient(address)

    async def infer(
        self, *rows: tuple[float, float], model: str = "model", is_binary: bool = False
    ) -> Any:
        return total(await self.client.infer(request(rows, model, is_binary)))

    async def all(self) -> dict[str, Any]:
        return {
            "answer": await self.infer((0, 1.5), (0, 2)),
            "binary": await self.infer((0, 1.5), (0, 2), is_binary=True),
            "live": await self.client.is_server_live(),
            "ready": await self.client.is_server_ready(),
            "model_ready": await self.client.is_model_ready("model"),
            "another": await failure(self.infer((0, 1), model="other")),
            "raises": await failure(self.infer((1, 1))),
            "refuses": await failure(self.infer((2, 1))),
        }


async def failure(call: Any) -> str:
    try:
        await call
    except Exception as error:  # noqa: BLE001  # whatever the client makes of it is what is shown
        code = getattr(error, "code", None)
        return f"{code().name}: {error.details()}" if callable(code) else str(error)
    return ""


async def main(kind: str, address: str) -> None:
    asked = {"v1": V1, "v2": V2, "grpc": Grpc}[kind](address)
    json.dump(await asked.all(), sys.stdout)
    await asked.client.close()


asyncio.run(main(*sys.argv[1:]))
