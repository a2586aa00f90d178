"""Feedback: what became of a prediction, for a model that wants to hear of it.

Such a model has Seldon's method, ``send_feedback(features, feature_names, reward, truth,
routing=None)``. Feedback for another is counted, and answered with nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from pyfuncserver.codec.seldon import ARRAYS, Feedback, Message
from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.seldon import array_of

Listener = Callable[[Feedback], Any]
"""Hands it to the model, and gives the answer. Raises: what the model raises."""

_NAME = "send_feedback"


def listener(python_model: Any) -> Listener:
    """Give what takes the feedback for a ``PythonModel``, or for None."""
    send = getattr(python_model, _NAME, None)
    if not callable(send):
        return lambda _: np.array([])
    takes_routing = _takes_routing(send)

    def hear(feedback: Feedback) -> Any:
        routing = {"routing": _branch(feedback)} if takes_routing else {}
        answer = send(
            _features(feedback.request),
            list(feedback.request.names),
            feedback.reward,
            _features(feedback.truth),
            **routing,
        )
        return np.array([]) if answer is None else answer

    return hear


def _takes_routing(send: Callable[..., Any]) -> bool:
    parameters = inspect.signature(send).parameters.values()
    return any(p.name == "routing" or p.kind is p.VAR_KEYWORD for p in parameters)


def _features(message: Message) -> Any:
    """Give an array as one, and all else as it is; None for nothing."""
    if message.kind not in ARRAYS:
        return message.value
    try:
        return array_of(message.value)
    except InvalidInput:  # rows of several lengths, or long strings among many short ones
        return np.array(message.value, dtype=object)


def _branch(feedback: Feedback) -> int | None:
    """Give the branch that a router took; None where there was none, or more than one router."""
    routing = feedback.response.meta.routing
    return next(iter(routing.values())) if len(routing) == 1 else None
