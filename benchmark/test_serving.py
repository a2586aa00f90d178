"""One client, one connection, one request after the other: what a request costs here.

README.md says how to read the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from harness import Daemon, predict_values
from pytest_benchmark.fixture import BenchmarkFixture

from pyfuncserver.codec.upi import DOUBLE, messages

SIZES = {"small": 100, "medium": 6_500, "large": 78_000}
"""About so many bytes on the wire, for either protocol."""

COLUMNS = 8

pytestmark = pytest.mark.benchmark(warmup=True, max_time=2, min_rounds=50)


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_http(daemon: Daemon, size: str, benchmark: BenchmarkFixture) -> None:
    body = http_body(SIZES[size])
    headers = {"Content-Type": "application/json"}
    with closing(daemon.connection()) as connection:

        def call() -> bytes:
            connection.request("POST", daemon.predict_path, body, headers)
            return connection.getresponse().read()

        assert json.loads(call()) == {"predictions": json.loads(body)["instances"]}
        benchmark.group = f"HTTP {size}"
        measure(benchmark, daemon, call, len(body))


def test_upi(daemon: Daemon, size: str, benchmark: BenchmarkFixture) -> None:
    request = upi_request(SIZES[size])
    with daemon.channel() as channel:
        predict = predict_values(channel)

        def call() -> Any:
            return predict(request, timeout=10)

        assert call().prediction_result_table == request.prediction_table
        benchmark.group = f"UPI {size}"
        measure(benchmark, daemon, call, request.ByteSize())


def measure(
    benchmark: BenchmarkFixture, daemon: Daemon, call: Callable[[], object], body_bytes: int
) -> None:
    """Run the benchmark; note beside the times what the daemon's processes burned."""
    calls = 0

    def counted() -> None:
        nonlocal calls
        calls += 1
        call()

    before = daemon.cpu_seconds()
    benchmark(counted)
    spent = daemon.cpu_seconds() - before
    benchmark.extra_info["body_bytes"] = body_bytes
    benchmark.extra_info["cpu_us_per_request"] = round(spent / calls * 1e6, 1)
    print(f"\n{body_bytes} bytes: {benchmark.extra_info['cpu_us_per_request']} us of CPU a request")


def http_body(size_bytes: int) -> bytes:
    """Make a V1 body of rows of numbers, up to so many bytes."""
    row = [round(1000 / (number + 3), 4) for number in range(COLUMNS)]
    row_bytes = len(json.dumps(row)) + len(", ")
    rows = max(1, round(size_bytes / row_bytes))
    return json.dumps({"instances": [row] * rows}).encode()


def upi_request(size_bytes: int) -> Any:
    """Make a request with a table of doubles, up to so many bytes."""
    upi = messages()
    request = upi.PredictValuesRequest()
    table = request.prediction_table
    # A row of all columns alone is larger than the small body.
    columns = COLUMNS if size_bytes >= 1000 else 2
    for number in range(columns):
        table.columns.add(name=f"x{number}", type=DOUBLE)
    while request.ByteSize() < size_bytes:
        row = table.rows.add(row_id=str(len(table.rows)))
        for number in range(columns):
            row.values.add(double_value=1000 / (number + 3))
    return request
