from __future__ import annotations

from typing import Any

import pytest

from pyfuncserver.codec import upi
from pyfuncserver.errors import InvalidInput, ModelAborted, ModelFailed, NotReady, TooLarge
from pyfuncserver.model.call import Call, Complete, Form, Predictions, Request
from pyfuncserver.protocol.limit import Limit
from pyfuncserver.protocol.upi.dialect import Upi


def request(body: bytes) -> Request:
    return Request("m-1", body, "id", {"foo": "bar"}, context="context")


def message(name: str = "PredictValuesRequest") -> Any:
    return getattr(upi.messages(), name)(target_name="t")


def test_decode() -> None:
    found = Upi().decode(request(message().SerializeToString()))
    assert (found.form, found.headers, found.context) == (Form.UPI, {"foo": "bar"}, "context")
    assert found.payload == message()


def test_bytes_that_are_no_request() -> None:
    with pytest.raises(InvalidInput, match="PredictValuesRequest"):
        Upi().decode(request(b"\xff"))


def test_message_is_answered_as_it_is() -> None:
    response = message("PredictValuesResponse")
    reply = Upi().encode(Complete(response))
    assert (reply.status, reply.body) == ("OK", response.SerializeToString())


def test_predictions_become_a_table() -> None:
    reply = Upi().encode(Predictions([1.5], Call(Form.UPI, message())))
    found = upi.messages().PredictValuesResponse.FromString(reply.body)
    assert found.prediction_result_table.rows[0].values[0].double_value == 1.5


@pytest.mark.parametrize("answer", [None, {"predictions": []}, message(), object()])
def test_answer_that_is_no_response(answer: object) -> None:
    with pytest.raises(ModelFailed, match="error id"):
        Upi().encode(Complete(answer))


def test_predictions_that_no_table_holds() -> None:
    with pytest.raises(ModelFailed, match="error id"):
        Upi().encode(Predictions([object()], Call(Form.UPI, message())))


def test_answer_that_grpc_would_not_send_names_the_setting() -> None:
    answer = Complete(message("PredictValuesResponse"))
    size = len(answer.value.SerializeToString())
    assert Upi(Limit(size, "the option")).encode(answer).status == "OK"
    with pytest.raises(TooLarge, match=rf"limit of {size - 1} bytes \(the option\)"):
        Upi(Limit(size - 1, "the option")).encode(answer)


def test_error() -> None:
    reply = Upi().error(NotReady("wait"))
    assert (reply.body, reply.status, reply.reason) == (b"", "UNAVAILABLE", "wait")
    assert reply.cause is None


def test_abort_of_the_model_is_handed_back() -> None:
    error, cause = ModelAborted("DATA_LOSS"), Exception()
    error.__cause__ = cause
    reply = Upi().error(error)
    assert reply.cause is cause
    assert reply.status == "DATA_LOSS"
