from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from harness import wait_until
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

import pyfuncserver
from pyfuncserver.codec import inference
from pyfuncserver.errors import (
    ClientGone,
    DeadlinePassed,
    InvalidInput,
    LoadFailed,
    NotReady,
    UnknownModel,
)
from pyfuncserver.model.catalogue import Catalogue
from pyfuncserver.model.description import Description
from pyfuncserver.model.identity import Identity
from pyfuncserver.orders import Action, Outcomes
from pyfuncserver.protocol.limit import Limit
from pyfuncserver.protocol.oip.servicer import servicer
from pyfuncserver.protocol.reloading import Reloader
from pyfuncserver.protocol.servicer import Patience
from pyfuncserver.scoreboard import Reload, Scoreboard, State

SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype("float32"), (-1, 3), "x")]),
    outputs=Schema([TensorSpec(np.dtype("int64"), (-1,), "y")]),
)
MODEL_METHODS = ("ModelReady", "ModelMetadata")
LOADS = ("RepositoryModelLoad", "RepositoryModelUnload")


class Service:
    """The controls of a servicer, called with messages."""

    def __init__(self, is_ready: bool = True, signature: Any = SIGNATURE) -> None:
        scoreboard = Scoreboard(1)
        if is_ready:
            scoreboard.set_slot(0, os.getpid(), State.READY, 1)
            scoreboard.beat(0)
        description = Description("mlflow.sklearn", signature)
        self.scoreboard = scoreboard
        self.asked: list[tuple[Action, str, int]] = []
        self.outcomes = Outcomes()
        reloader = Reloader(
            scoreboard, self.outcomes, lambda *wish: self.asked.append(wish), {"new"}.__contains__
        )
        models = Catalogue.of(Identity("m", "1", "m-1"), description)
        self.servicer = servicer(models, reloader, Limit(100, "the option"))
        self.patience = Patience()

    def ask(self, method: str, /, **fields: Any) -> Any:
        request = getattr(inference.messages(), f"{method}Request")(**fields)
        body = request.SerializeToString()
        if method in self.servicer.errands:
            answer = self.servicer.errands[method](body, self.patience)
        else:
            answer = self.servicer.controls[method](body)
        return inference.parse(f"{method}Response", answer)


def test_every_method_of_the_service_is_answered() -> None:
    (file,) = inference.file_set().file
    served = Service().servicer
    assert served.name == "inference.GRPCInferenceService"
    names = {*served.predictions, *served.controls, *served.errands}
    assert names == {method.name for method in file.service[0].method}
    assert served.guarded == {"RepositoryIndex", *LOADS}


def test_liveness_and_readiness() -> None:
    ready, waiting = Service(), Service(is_ready=False)
    assert ready.ask("ServerLive").live
    assert waiting.ask("ServerLive").live
    assert ready.ask("ServerReady").ready
    assert not waiting.ask("ServerReady").ready
    for name, version in (("m", ""), ("m", "1"), ("m-1", ""), ("m-1", "1")):
        assert ready.ask("ModelReady", name=name, version=version).ready
        assert not waiting.ask("ModelReady", name=name, version=version).ready


def test_metadata() -> None:
    server = Service().ask("ServerMetadata")
    assert (server.name, server.version) == ("pyfuncserver", pyfuncserver.__version__)
    assert "model_repository" in server.extensions
    model = Service().ask("ModelMetadata", name="m-1")
    assert (model.name, list(model.versions), model.platform) == ("m", ["1"], "mlflow_sklearn")
    assert [(t.name, t.datatype, list(t.shape)) for t in model.inputs] == [("x", "FP32", [-1, 3])]
    assert [(t.name, t.datatype, list(t.shape)) for t in model.outputs] == [("y", "INT64", [-1])]
    bare = Service(signature=None).ask("ModelMetadata", name="m")
    assert (len(bare.inputs), len(bare.outputs)) == (0, 0)


def test_index() -> None:
    (entry,) = Service().ask("RepositoryIndex").models
    assert (entry.name, entry.version, entry.state, entry.reason) == ("m", "1", "READY", "")
    (entry,) = Service(is_ready=False).ask("RepositoryIndex").models
    assert (entry.state, entry.reason) == ("UNAVAILABLE", "The server is not ready")
    assert len(Service().ask("RepositoryIndex", ready=True).models) == 1
    assert len(Service(is_ready=False).ask("RepositoryIndex", ready=True).models) == 0


@pytest.mark.parametrize("method", LOADS)
@pytest.mark.parametrize("field", ["model_name", "repository_name"])
@pytest.mark.parametrize(("name", "meant"), [("m-1", "m"), ("new", "new")])
def test_change(method: str, field: str, name: str, meant: str) -> None:
    """The name is in field 2, and in field 1 where KServe's SDK asks."""
    service = Service()
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(service.ask, method, **{field: name})
        wait_until(lambda: service.asked, 30)
        assert not answer.done()
        ((action, asked, ticket),) = service.asked
        assert (f"RepositoryModel{action.value.title()}", asked) == (method, meant)
        service.outcomes.settle(ticket, Reload.DONE)
        assert answer.result(10).model_name == name
        assert answer.result().isLoaded if action is Action.LOAD else answer.result().isUnloaded


def test_field_2_is_the_name_where_both_are_there() -> None:
    with pytest.raises(UnknownModel, match="other"):
        Service().ask("RepositoryModelLoad", repository_name="m", model_name="other")


@pytest.mark.parametrize(("end", "why"), [(Reload.FAILED, LoadFailed), (Reload.REFUSED, NotReady)])
def test_load_that_fails(end: Reload, why: type[Exception]) -> None:
    service = Service()
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(service.ask, "RepositoryModelLoad", model_name="m")
        wait_until(lambda: service.asked, 30)
        service.outcomes.settle(service.asked[0][2], end, "of bad luck")
        with pytest.raises(why, match="bad luck" if end is Reload.FAILED else "memory"):
            answer.result(10)


def test_load_whose_client_does_not_wait() -> None:
    service = Service()
    service.patience = Patience(is_wanted=lambda: False)
    with pytest.raises(ClientGone):
        service.ask("RepositoryModelLoad", model_name="m")
    service.patience = Patience(deadline=time.monotonic())
    with pytest.raises(DeadlinePassed):
        service.ask("RepositoryModelLoad", model_name="m")


def test_load_with_parameters() -> None:
    config = {"config": inference.messages().ModelRepositoryParameter(string_param="{}")}
    with pytest.raises(InvalidInput, match="no parameters"):
        Service().ask("RepositoryModelLoad", model_name="m", parameters=config)


def test_unload_with_what_tritons_client_always_sends() -> None:
    service = Service()
    service.patience = Patience(is_wanted=lambda: False)
    is_false = inference.messages().ModelRepositoryParameter(bool_param=False)
    dependents = {"unload_dependents": is_false}
    with pytest.raises(ClientGone):
        service.ask("RepositoryModelUnload", model_name="m", parameters=dependents)
    assert [wish[:2] for wish in service.asked] == [(Action.UNLOAD, "m")]


@pytest.mark.parametrize("method", [*MODEL_METHODS, *LOADS])
def test_other_models_and_what_is_no_name(method: str) -> None:
    field = "name" if method in MODEL_METHODS else "model_name"
    with pytest.raises(UnknownModel, match="other"):
        Service().ask(method, **{field: "other"})
    for name in ("", "a b", "n" * 300):
        with pytest.raises(InvalidInput):
            Service().ask(method, **{field: name})
    if method in MODEL_METHODS:
        with pytest.raises(UnknownModel, match="m/versions/2"):
            Service().ask(method, name="m", version="2")


def test_bytes_that_are_no_message() -> None:
    controls = Service().servicer.controls
    for name, control in controls.items():
        with pytest.raises(InvalidInput, match=f"not a {name}Request"):
            control(b"\xff")
    for name, errand in Service().servicer.errands.items():
        with pytest.raises(InvalidInput, match=f"not a {name}Request"):
            errand(b"\xff", Patience())
