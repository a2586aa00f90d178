"""Open-loop load: requests leave when their time has come, whether or not others were answered.

>>> shots = flood(http_target(daemon, {"do": "pid"}), rate=1000, seconds=10)
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from harness import PREDICT_VALUES, Daemon

TIMEOUT_S = 30

Ask = Callable[[], Awaitable[str]]
Target = Callable[[], AbstractAsyncContextManager[Ask]]


@dataclass(frozen=True)
class Shot:
    """One request; its time counts from when it should have been sent, so that no wait is lost."""

    took_s: float
    outcome: str
    """The HTTP status or the gRPC code."""


def flood(target: Target, rate: float, seconds: float) -> list[Shot]:
    """Send so many requests a second, evenly, and wait for all answers."""
    # A full collection of what MLflow has brought takes a tenth of a second, which the server
    # would be blamed for.
    gc.disable()
    try:
        return asyncio.run(_flood(target, rate, seconds))
    finally:
        gc.enable()


async def _flood(target: Target, rate: float, seconds: float) -> list[Shot]:
    loop = asyncio.get_running_loop()
    async with target() as ask:

        async def shoot(due: float) -> Shot:
            outcome = await asyncio.wait_for(ask(), TIMEOUT_S)
            return Shot(loop.time() - due, outcome)

        began = loop.time()
        shots = []
        for number in range(int(rate * seconds)):
            due = began + number / rate
            await asyncio.sleep(max(0, due - loop.time()))
            shots.append(asyncio.ensure_future(shoot(due)))
        return await asyncio.gather(*shots)


def http_target(daemon: Daemon, body: Mapping[str, Any]) -> Target:
    """Ask over as many keep-alive connections as are needed, one request at a time on each."""
    raw = json.dumps(body).encode()
    head = f"POST {daemon.predict_path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(raw)}\r\n"
    request = head.encode() + b"\r\n" + raw

    @asynccontextmanager
    async def target():
        idle: list[_Connection] = []
        made: list[_Connection] = []

        async def ask() -> str:
            while idle:
                connection = idle.pop()
                if not connection.is_closed:
                    break
            else:
                _, connection = await asyncio.get_running_loop().create_connection(
                    _Connection, "127.0.0.1", daemon.http_port
                )
                made.append(connection)
            status = await connection.ask(request)
            idle.append(connection)
            return status

        yield ask
        for connection in made:
            connection.close()

    return target


class _Connection(asyncio.Protocol):
    is_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._answer: asyncio.Future[str] | None = None
        self._unread = b""

    def ask(self, request: bytes) -> Awaitable[str]:
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        head, mark, body = self._unread.partition(b"\r\n\r\n")
        if not mark:
            return
        length = int(head.lower().partition(b"\r\ncontent-length: ")[2].split(b"\r\n")[0])
        if len(body) < length or self._answer is None:
            return
        self._unread = body[length:]
        answer, self._answer = self._answer, None
        answer.set_result(head.split(b" ", 2)[1].decode())

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closed = True
        if self._answer is not None:
            self._answer.set_result("closed")
            self._answer = None


def upi_target(daemon: Daemon, request: Any) -> Target:
    """Ask over one channel; the answers are not parsed."""
    raw = request.SerializeToString()

    @asynccontextmanager
    async def target():
        async with grpc.aio.insecure_channel(f"127.0.0.1:{daemon.grpc_port}") as channel:
            call = channel.unary_unary(PREDICT_VALUES)

            async def ask() -> str:
                try:
                    await call(raw, timeout=TIMEOUT_S)
                except grpc.aio.AioRpcError as error:
                    return error.code().name
                return "OK"

            yield ask

    return target
