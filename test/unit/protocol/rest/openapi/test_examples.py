"""Every example of the document is answered well, by a model as MLflow loads it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from pyfuncserver.model import loader
from pyfuncserver.model.call import Request
from pyfuncserver.model.catalogue import Catalogue
from pyfuncserver.model.identity import Identity
from pyfuncserver.model.pyfunc import PyFuncRunner
from pyfuncserver.model.service import InferenceService
from pyfuncserver.protocol.rest import app
from pyfuncserver.protocol.rest.handler import Surroundings
from pyfuncserver.protocol.rest.openapi.document import document
from pyfuncserver.protocol.rest.pages.docs import subject_of
from pyfuncserver.scoreboard import Scoreboard

IRIS = Identity("iris", "7", "iris-7")
SHOWN = {
    "no_signature": {"/v2/models/{model}/generate"},
    "an_example_alone": {"V1", "V2", "MLflow", "Seldon"},
    "columns": {"V1", "V2", "MLflow", "Seldon", "/v2/models/{model}/generate"},
    "columns_alone": {"V1", "V2", "MLflow", "Seldon", "/v2/models/{model}/generate"},
    "lists_and_objects": {"MLflow"},
    "lists": {"V2", "MLflow"},
    "objects": {"MLflow"},
    "maps": {"MLflow"},
    "text": {"V1", "V2", "MLflow", "Seldon", "/v2/models/{model}/generate"},
    "no_names": {"V1", "V2", "MLflow", "Seldon"},
    "one_column": {"V1", "V2", "MLflow", "Seldon", "/v2/models/{model}/generate"},
    "tensor": {"V1", "V2", "MLflow", "Seldon"},
    "tensor_alone": {"V1", "V2", "MLflow", "Seldon"},
    "named_tensor": {"V1", "V2", "MLflow", "Seldon"},
    "tensors": {"V1", "V2", "MLflow"},
    "hinted": {"V1", "V2", "MLflow", "Seldon", "/v2/models/{model}/generate"},
    "dummy": {"V1", "V2", "MLflow", "Seldon"},
}
"""The dialects that have an example of a model's, and paths that have one though not always."""
DIALECTS = {
    "V1": "/v1/models/{full_name}:predict",
    "V2": "/v2/models/{model}/infer",
    "MLflow": "/invocations",
    "Seldon": "/api/v1.0/predictions",
}


@pytest.fixture(scope="module")
def runner_of(save_model: Callable[..., Path]) -> Callable[[str], PyFuncRunner]:
    def save(name: str, path: Path) -> Path:
        import docs_models

        return docs_models.save(name, path)

    def load(name: str) -> PyFuncRunner:
        path = save_model(f"docs_{name}", lambda _, path: save(name, path))
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("ignore")
            loaded = loader.load(str(path))
            return PyFuncRunner(loaded.pyfunc, loaded.loader_module, loaded.example)

    return load


def surroundings(runner: PyFuncRunner) -> Surroundings:
    return Surroundings(
        Catalogue.of(IRIS, runner.description),
        Scoreboard(1),
        ThreadPoolExecutor(1),
        cast(InferenceService, object()),
    )


def examples(paths: dict[str, Any]) -> Iterator[tuple[str, str, bytes]]:
    """Give the path, the media type and the body of each."""
    for path, item in paths.items():
        bodies = item.get("post", {}).get("requestBody", {}).get("content", {})
        for media_type, body in bodies.items():
            values = [it["value"] for it in body.get("examples", {}).values()]
            for value in (*values, *([body["example"]] if "example" in body else [])):
                raw = value if isinstance(value, str) else json.dumps(value)
                yield path, media_type, raw.encode()


def answer(runner: PyFuncRunner, dialect: Any, media_type: str, body: bytes) -> Any:
    request = Request(IRIS.full_name, body, "id", header={b"content-type": media_type.encode()}.get)
    with warnings.catch_warnings(record=True):  # MLflow's, of integers that hold no gaps
        warnings.simplefilter("ignore")
        return dialect.encode(runner.predict(dialect.decode(request)))


@pytest.mark.parametrize("name", SHOWN)
def test_every_example_is_answered(name: str, runner_of: Callable[[str], PyFuncRunner]) -> None:
    runner = runner_of(name)
    around = surroundings(runner)
    dialects = {path: one.dialect for one in app.endpoints(around) for path in one.paths}
    found = json.loads(json.dumps(document(subject_of(around, around.models[IRIS.full_name]))))[
        "paths"
    ]
    seen = set()
    for path, media_type, body in examples(found):
        if path not in dialects:
            continue  # no prediction
        reply = answer(runner, dialects[path], media_type, body)
        assert reply.status == 200, (path, media_type, body, reply.body)
        seen.add(path)
    assert {DIALECTS.get(one, one) for one in SHOWN[name]} == seen & {
        *DIALECTS.values(),
        "/v2/models/{model}/generate",
    }


def test_what_the_table_says_of_each_model_is_all_of_them() -> None:
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")
        import docs_models
    assert set(SHOWN) == set(docs_models.NAMES)
