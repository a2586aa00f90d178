"""The OpenAPI document: valid, of every route and no other, with examples that fit its schemas."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import mlflow.models
import numpy as np
import pandas as pd
import pytest
import tornado.web
from jsonschema import Draft202012Validator
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType, Array, Map, Object, Property
from openapi_spec_validator import OpenAPIV31SpecValidator

from pyfuncserver.model.call import Form
from pyfuncserver.model.catalogue import Catalogue, Entry
from pyfuncserver.model.description import Description
from pyfuncserver.model.identity import Identity
from pyfuncserver.model.service import InferenceService
from pyfuncserver.protocol.rest import app, scoring, seldon, shapes
from pyfuncserver.protocol.rest.handler import Surroundings
from pyfuncserver.protocol.rest.openapi import interface
from pyfuncserver.protocol.rest.openapi.document import PARTS, document
from pyfuncserver.protocol.rest.pages import docs
from pyfuncserver.protocol.rest.pages.docs import subject_of
from pyfuncserver.scoreboard import Scoreboard
from pyfuncserver.utils.tokens import Tokens

IRIS = Identity("iris", "7", "iris-7")
FRAME = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "n": [1, 2, 3, 4], "s": ["x", "y", "z", "w"]})


def signed(inputs: Schema, outputs: Schema | None = None, params: Any = None) -> ModelSignature:
    return ModelSignature(inputs, outputs, params and ParamSchema(params))


def columns(*specs: ColSpec) -> ModelSignature:
    return signed(Schema(list(specs)))


def tensors(*specs: tuple[str, str | None, tuple[int, ...]]) -> Schema:
    return Schema([TensorSpec(np.dtype(dtype), shape, name) for dtype, name, shape in specs])


def inferred() -> ModelSignature:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mlflow.models.infer_signature(FRAME, FRAME, {"k": 3, "v": [1.5]})


MODELS: dict[str, Description] = {
    "no signature": Description("mlflow.sklearn"),
    "no signature, but an example": Description(example=np.ones((9, 2))),
    "columns": Description(signature=inferred(), example=FRAME),
    "columns without an example": Description(signature=inferred()),
    "columns of every type": Description(
        signature=columns(*(ColSpec(it, it.name) for it in DataType))
    ),
    "columns that hold more": Description(
        signature=columns(
            ColSpec(Array(Array(DataType.string)), "lists", required=False),
            ColSpec(Object([Property("x", DataType.long), Property("y", DataType.string, False)]),
                    "object"),
            ColSpec(Map(DataType.float), "map"),
            ColSpec(AnyType(), "any", required=False),
        )
    ),
    "one column without a name": Description(signature=columns(ColSpec(DataType.string))),
    "columns without names": Description(
        signature=columns(ColSpec(DataType.double), ColSpec(DataType.string))
    ),
    "a column of a name that is no identifier": Description(
        signature=columns(ColSpec(DataType.double, 'a "b"/{c}'))
    ),
    "a tensor": Description(
        signature=signed(tensors(("float32", None, (-1, 2))), tensors(("float32", None, (-1,)))),
        example=np.ones((9, 2), np.float32),
    ),
    "a tensor without an example": Description(
        signature=signed(tensors(("uint8", None, (-1, 2, 3))))
    ),
    "a large tensor": Description(signature=signed(tensors(("uint8", None, (-1, 500, 500, 3))))),
    "a named tensor": Description(signature=signed(tensors(("bool", "t", (2,))))),
    "tensors": Description(
        signature=signed(
            tensors(("int64", "ids", (-1, 3)), ("float64", "weights", (-1,))),
            tensors(("str", "labels", (-1,)), ("float16", "scores", (-1, 2))),
        )
    ),
    "params": Description(
        signature=signed(
            Schema([ColSpec(DataType.double, "a")]),
            Schema([ColSpec(DataType.double)]),
            [ParamSpec("top", DataType.long, 3), ParamSpec("w", DataType.double, [1.0], (-1,))],
        )
    ),
    "an example that is not JSON": Description(example=object()),
    "an example that is large": Description(example=["x" * 100_000]),
    "an example with gaps": Description(
        signature=columns(ColSpec(DataType.double, "a"), ColSpec(DataType.string, "s", False)),
        example=pd.DataFrame({"a": [np.nan, 1.0], "s": [None, None]}),
    ),
    "Merlin's": Description("mlflow.pyfunc.model", forms=frozenset([Form.JSON]), is_plain=False),
}  # fmt: skip


@pytest.fixture(scope="module")
def slow_work() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def surroundings(description: Description, slow_work: Any, **more: Any) -> Surroundings:
    more.setdefault("service", cast(InferenceService, object()))
    models = Catalogue.of(IRIS, description)
    return Surroundings(models, Scoreboard(1), slow_work, **more)


def documented(description: Description, slow_work: Any, **more: Any) -> dict[str, Any]:
    """Give the document as a client reads it."""
    around = surroundings(described(description), slow_work, **more)
    found: dict[str, Any] = json.loads(
        json.dumps(document(subject_of(around, around.models["iris-7"])))
    )
    return found


def described(description: Description) -> Description:
    return replace(description, forms=description.forms or frozenset(Form))


@pytest.mark.parametrize("name", MODELS)
def test_schemas_are_json_schemas(name: str, slow_work: Any) -> None:
    for it in documented(MODELS[name], slow_work)["components"]["schemas"].values():
        Draft202012Validator.check_schema(it)


STRANGE: list[Any] = [
    *([], {}, "text", 5, True, [1], [[1]], [[1, 2, 3]], [[]], [None], [[None, None]], {1: 2}),
    *([{"a": 1}], [{"a": 1}, 5], [5, {"a": 1}], [{1: 2}], {"a": {"x": 1}}, {"a": [1], "b": 2}),
    *(np.array(5), np.array(["a"]), np.zeros((0, 2)), np.zeros((1, 2, 3)), pd.DataFrame()),
    *(pd.Series([1]), b"bytes", {1, 2}, object(), [10**30], ["\ud800"], [float("nan")], (1, 2)),
]


@pytest.mark.parametrize("name", MODELS)
def test_an_example_of_something_else_than_the_signature(name: str, slow_work: Any) -> None:
    """MLflow saves the one beside the other, whether or not they fit."""
    for example in STRANGE:
        described = replace(MODELS[name], example=example)
        assert documented(described, slow_work)["paths"]


@pytest.mark.parametrize(("name", "row", "expected"), [
    ("columns without names", {"x": 2.5, "y": "b"}, [2.5, "b"]),
    ("one column without a name", {"x": "b"}, "b"),
])  # fmt: skip
def test_an_example_with_names_where_the_signature_has_none(
    name: str, row: Any, expected: Any, slow_work: Any
) -> None:
    model = replace(MODELS[name], example=[row])
    paths = documented(model, slow_work)["paths"]
    shown = paths["/v1/models/{full_name}:predict"]["post"]["requestBody"]["content"]
    rows = shown["application/json"]["examples"]["instances"]["value"]["instances"]
    assert rows == [expected]


@pytest.mark.parametrize("more", [{}, {"service": None}, {"tokens": object()}])
@pytest.mark.parametrize("name", ["no signature", "columns", "Merlin's"])
def test_it_is_openapi_3_1(name: str, more: dict[str, Any], slow_work: Any) -> None:
    """With the meta-schema, and what that cannot say: references, names, parameters of paths."""
    OpenAPIV31SpecValidator(documented(MODELS[name], slow_work, **more)).validate()


def routes_of(around: Surroundings) -> set[tuple[str, str]]:
    """Give every path that the application answers, and its methods in lower case."""
    pages = [*app.PAGES, *docs.PAGES]
    found = {(path, method) for path, page in pages for method in methods_of(page)}
    if around.metrics_path is not None:
        found.add((around.metrics_path, "get"))
    if around.service is None:
        return found
    return found | {(path, "post") for one in app.endpoints(around) for path in one.paths}


def methods_of(page: type[tornado.web.RequestHandler]) -> list[str]:
    default = tornado.web.RequestHandler._unimplemented_method
    names = ("get", "post", "put", "patch", "delete", "options")
    return [name for name in names if getattr(page, name) is not default]


@pytest.mark.parametrize("has_service", [True, False])
def test_every_route_is_documented_and_nothing_else(has_service: bool, slow_work: Any) -> None:
    more = {} if has_service else {"service": None}
    around = surroundings(described(MODELS["columns"]), slow_work, **more)
    found = document(subject_of(around, around.models["iris-7"]))
    written = {(path, method) for path, item in found["paths"].items() for method in item}
    assert written == routes_of(around)
    patterns = [
        rule.matcher.regex.pattern for rule in app.application(around).wildcard_router.rules
    ]
    assert len(patterns) == len({path for path, _ in routes_of(around)})


def test_operations_have_names_of_their_own(slow_work: Any) -> None:
    found = documented(MODELS["columns"], slow_work)
    names = [it["operationId"] for item in found["paths"].values() for it in item.values()]
    assert len(set(names)) == len(names)
    assert {tag for item in found["paths"].values() for it in item.values() for tag in it["tags"]} \
        == {part.TAG for part in PARTS}  # fmt: skip


REPOSITORY = Catalogue(
    [
        Entry(Identity("a", "1", "a-1"), described(MODELS["columns"])),
        Entry(Identity("a", "2", "a-2"), described(MODELS["columns"])),
        Entry(Identity("b", "1", "b-1"), described(MODELS["columns"])),
    ],
    default="b-1",
    is_repository=True,
)


@pytest.mark.parametrize(("key", "fronts"), [
    ("a-1", ["/models/a-1", "/models/a/versions/1"]),
    ("a-2", ["/models/a-2", "/models/a", "/models/a/versions/2"]),
    ("b-1", ["", "/models/b-1", "/models/b", "/models/b/versions/1"]),
])  # fmt: skip
def test_in_a_repository_every_path_of_a_model_is_documented(
    key: str, fronts: list[str], slow_work: Any
) -> None:
    service = cast(InferenceService, object())
    around = Surroundings(REPOSITORY, Scoreboard(1), slow_work, service=service)
    found = document(subject_of(around, REPOSITORY[key]))
    cast(Any, OpenAPIV31SpecValidator)(found).validate()
    shapeless = (*scoring.PATHS, *seldon.PATHS, *seldon.FEEDBACK_PATHS, "/metadata")
    for path in shapeless:
        written = [front for front in fronts if f"{front}{path}" in found["paths"]]
        assert written == fronts
    names = [it["operationId"] for item in found["paths"].values() for it in item.values()]
    assert len(set(names)) == len(names)
    meant = app.predictions(around)
    for front in fronts:
        assert meant[f"{front}/invocations".encode()].model == key


def test_the_documents_own_parameters_are_documented(slow_work: Any) -> None:
    operation = documented(MODELS["columns"], slow_work)["paths"]["/openapi.json"]["get"]
    values = {it["name"]: (it["in"], it["schema"]["enum"]) for it in operation["parameters"]}
    assert values == {"model": ("query", ["iris", "iris-7"]), "version": ("query", ["7"])}
    assert "404" in operation["responses"]


def examples_of(found: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Give every example of a request's body, with where it is and the schema of it."""
    for path, item in found["paths"].items():
        for operation in item.values():
            for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
                shown = {"": {"value": body["example"]}} if "example" in body else {}
                for name, it in {**shown, **body.get("examples", {})}.items():
                    yield f"{path} {media_type} {name}", it["value"], body.get("schema", {})


@pytest.mark.parametrize("name", MODELS)
def test_examples_fit_their_schemas(name: str, slow_work: Any) -> None:
    found = documented(MODELS[name], slow_work)
    for where, value, schema in examples_of(found):
        whole = {**schema, "components": found["components"]}
        problems = [it.message for it in Draft202012Validator(whole).iter_errors(value)]
        assert not problems, where


def v1_request(found: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = found["components"]["schemas"]["V1Request"]
    return schema


def test_columns_have_their_names_and_types(slow_work: Any) -> None:
    found = documented(MODELS["columns"], slow_work)["components"]["schemas"]
    row = found["Rows"]["items"]
    assert row["required"] == ["a", "n", "s"]
    assert {name: it["type"] for name, it in row["properties"].items()} == {
        "a": "number", "n": "integer", "s": "string",
    }  # fmt: skip
    assert found["Columns"]["properties"]["n"]["items"]["format"] == "int64"
    params = found["Params"]["properties"]
    assert (params["k"]["default"], params["v"]["type"]) == (3, "array")


def test_the_models_own_example_is_shown_shortened(slow_work: Any) -> None:
    found = {
        where: value for where, value, _ in examples_of(documented(MODELS["columns"], slow_work))
    }
    shown = found["/v1/models/{full_name}:predict application/json instances"]
    assert shown == {"instances": FRAME.head(interface.MOST_ROWS).to_dict("records")}


def test_a_row_with_gaps_is_no_example(slow_work: Any) -> None:
    found = documented(MODELS["an example with gaps"], slow_work)
    values = [value for where, value, _ in examples_of(found) if where.endswith("json instances")]
    assert values[0] == {"instances": [{"a": 1.0, "s": None}]}


def test_a_tensor_has_its_shape(slow_work: Any) -> None:
    row = documented(MODELS["a tensor"], slow_work)["components"]["schemas"]["Rows"]["items"]
    assert (row["minItems"], row["maxItems"], row["items"]) == (2, 2, {"type": "number"})


def test_merlins_takes_any_body_and_no_other_dialect(slow_work: Any) -> None:
    found = documented(MODELS["Merlin's"], slow_work)
    assert "type" not in v1_request(found)
    around = surroundings(MODELS["Merlin's"], slow_work)
    for endpoint in app.endpoints(around):
        for path in endpoint.paths:
            answers = found["paths"][path]["post"]["responses"]
            if path.startswith("/v1/"):
                assert "200" in answers
            else:
                assert ("200" in answers, "501" in answers) == (False, True), path


def test_tokens_are_asked_for_by_predictions_alone(slow_work: Any) -> None:
    found = documented(MODELS["columns"], slow_work, tokens=cast(Tokens, object()))
    for path, item in found["paths"].items():
        for method, operation in item.items():
            is_prediction = ("security" in operation, "401" in operation["responses"])
            assert is_prediction in ((True, True), (False, False)), path
            if method == "get":
                assert is_prediction == (False, False)
    assert "security" not in str(documented(MODELS["columns"], slow_work)["paths"])


def test_without_documentation_there_is_none(slow_work: Any) -> None:
    around = surroundings(MODELS["columns"], slow_work, has_docs=False)
    rules = app.application(around).wildcard_router.rules
    assert not [it for it in rules if "docs" in it.matcher.regex.pattern]
    assert not [it for it in rules if "openapi" in it.matcher.regex.pattern]


def test_bytes_that_a_model_answers_are_text_or_an_object(slow_work: Any) -> None:
    binary = columns(ColSpec(DataType.binary, "raw"), ColSpec(DataType.double, "a"))
    description = Description(signature=ModelSignature(binary.inputs, binary.inputs))
    found = documented(description, slow_work)["components"]["schemas"]["Predictions"]
    schema = found["items"]["properties"]["raw"]
    validator = Draft202012Validator(schema)
    assert all(map(validator.is_valid, ["AAEC", {"b64": "AAEC"}, None]))
    assert not any(map(validator.is_valid, [1, {"b64": 1}, {}]))


def test_metrics_are_where_they_are(slow_work: Any) -> None:
    found = documented(MODELS["columns"], slow_work, metrics_path="/stats/x")["paths"]
    assert "/stats/x" in found
    assert "/metrics" not in found
    assert "/metrics" not in documented(MODELS["columns"], slow_work, metrics_path=None)["paths"]


def test_bodies_that_are_passed_on_are_the_models_to_read(slow_work: Any) -> None:
    found = documented(MODELS["columns"], slow_work, passes_payload=True)
    assert "type" not in v1_request(found)
    shown = {where.split()[0] for where, _, _ in examples_of(found)}
    assert "/v1/models/{full_name}:predict" not in shown
    assert "/v2/models/{model}/infer" in shown


@pytest.mark.parametrize(
    ("loader_module", "is_code"),
    [("mlflow.pyfunc.model", True), ("my.loader", True), ("mlflow.sklearn", False)],
)
def test_code_of_somebodys_may_choose_its_status(
    loader_module: str, is_code: bool, slow_work: Any
) -> None:
    found = documented(Description(loader_module), slow_work)["paths"]
    answers = found["/v1/models/{full_name}:predict"]["post"]["responses"]
    assert ("4XX" in answers, "5XX" in answers) == (is_code, is_code)
    assert "4XX" not in found["/v1/models"]["get"]["responses"]


def test_errors_have_the_shape_of_their_path(slow_work: Any) -> None:
    found = documented(MODELS["columns"], slow_work)
    for path, item in found["paths"].items():
        schemas = {schema_of(it, found) for op in item.values() for it in failures(op)}
        assert len(schemas) == 1, path
        (name,) = schemas
        shape = shapes.shape_of(path.format(full_name="m", model="m", version="1", asset="x"))
        schema = found["components"]["schemas"][name]
        example = json.loads(shape.body(400, "why"))
        assert Draft202012Validator(schema).is_valid(example), path


def failures(operation: dict[str, Any]) -> list[dict[str, Any]]:
    return [it for status, it in operation["responses"].items() if status in ("400", "413", "431")]


def schema_of(response: dict[str, Any], found: dict[str, Any]) -> str:
    """Name the schema of a response's body."""
    if "$ref" in response:
        response = found["components"]["responses"][response["$ref"].rpartition("/")[2]]
    reference: str = response["content"]["application/json"]["schema"]["$ref"]
    return reference.rpartition("/")[2]
