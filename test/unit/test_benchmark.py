"""The benchmarks read what the load generators print; a number misread would look like a result."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # the benchmarks are no part of the package

from benchmark import comparison, payloads
from benchmark.generators import Sample, parse_h2load, parse_wrk

WRK = """Running 2s test @ http://127.0.0.1:8080/v1/models/model-1:predict
  1 threads and 8 connections
Requests/sec:   4000.10

SEEN {{"requests": 8000, "microseconds": 2000000, "bytes": {bytes}, "p50": 1500, {more}}}
"""
H2LOAD = """starting benchmark...
finished in 2.00s, 500.00 req/s, 120.00KB/s
requests: 1000 total, 1000 started, 1000 done, {good} succeeded, {bad} failed, 0 errored, 0 timeout
status codes: 1000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 300.00KB (307200) total, 80.00KB (81920) headers (space savings 90.00%), 1KB ({data}) data
"""
TIMES = "".join(f"{number}\t200\t{1000 + number}\n" for number in range(1000))


def wrk_output(size: int = 8000 * 250, errors: int = 0) -> str:
    return WRK.format(bytes=size, more=f'"p99": 9000, "errors": {errors}')


def test_wrk_gives_requests_times_and_errors() -> None:
    assert parse_wrk(wrk_output(errors=3), 100) == Sample(8000, 2.0, 1.5, 9.0, 3)
    assert parse_wrk(wrk_output(), 100).rate == 4000


def test_answers_over_http_that_are_too_short_are_errors() -> None:
    assert parse_wrk(wrk_output(size=8000 * 50), 100).errors == 4000


@pytest.mark.parametrize("output", ["", "unable to connect to 127.0.0.1:1 Connection refused"])
def test_a_generator_that_tells_nothing_is_no_result(output: str) -> None:
    with pytest.raises(ValueError, match="has not told"):
        parse_wrk(output, 100)
    with pytest.raises(ValueError, match="has not told"):
        parse_h2load(output, TIMES, 100, 8, 2)


def test_h2load_gives_requests_times_and_errors() -> None:
    output = H2LOAD.format(good=1000, bad=0, data=1000 * 105)
    assert parse_h2load(output, TIMES, 100, 8, 2) == Sample(1000, 2.0, 1.5, 1.99, 0)
    output = H2LOAD.format(good=990, bad=10, data=990 * 105)
    assert parse_h2load(output, TIMES, 100, 8, 2).errors == 10


def test_grpc_calls_that_were_answered_with_a_status_alone_are_errors() -> None:
    output = H2LOAD.format(good=1000, bad=0, data=400 * 105)
    assert parse_h2load(output, TIMES, 100, 8, 2).errors == 600


@pytest.mark.parametrize("size", payloads.SIZES.values(), ids=payloads.SIZES)
@pytest.mark.parametrize(
    "body",
    [
        *(payloads.v1, payloads.v2, payloads.v2_typed, payloads.v2_raw),
        *(payloads.dataframe_split, payloads.seldon, payloads.upi),
    ],
)
def test_bodies_have_about_the_size_they_should_have(body: payloads.Body, size: int) -> None:
    assert 0.9 * size < len(body(size)) < 1.1 * size + 100


def test_an_echo_is_told_from_an_answer_that_lacks_a_value() -> None:
    body = payloads.v1(6500)
    rows = json.loads(body)["instances"]
    assert payloads.has_same_leaves(body, json.dumps({"predictions": rows}).encode())
    rows[-1][3] += 0.001
    assert not payloads.has_same_leaves(body, json.dumps({"predictions": rows}).encode())


def test_a_upi_table_is_told_from_another() -> None:
    body = payloads.upi(6500)
    assert payloads.has_same_table(body, body)
    assert not payloads.has_same_table(body, payloads.upi(6600))


def test_a_upi_body_is_a_message_of_ours() -> None:
    from pyfuncserver.codec import upi

    body = payloads.upi(100)
    request = upi.messages().PredictValuesRequest.FromString(body)
    assert request.target_name == "echo"
    assert [column.name for column in request.prediction_table.columns] == payloads.COLUMNS[:4]
    assert payloads.has_same_table(body, request.SerializeToString())


def test_a_spread_has_the_median_and_the_ends() -> None:
    assert str(comparison.spread([3.0, 1.0, 2.0])) == "2.00 (1.00..3.00)"


@pytest.mark.parametrize("body", [payloads.v2_typed, payloads.v2_raw])
def test_a_v2_body_is_a_message_of_ours(body: payloads.Body) -> None:
    from pyfuncserver.codec import inference

    request = inference.parse("ModelInferRequest", body(100))
    (tensor,) = inference.inputs_of(request)
    assert (request.model_name, tensor.name, tensor.datatype) == ("echo", "x", "FP64")
    assert tensor.values.tolist() == [payloads.row(number)[2] for number in range(9)]
    assert payloads.has_same_doubles(body(100), tensor.values.tobytes())
    assert not payloads.has_same_doubles(body(100), tensor.values[:-1].tobytes())
