"""scikit-learn's estimators: loading, what they say of themselves, what they answer."""

from __future__ import annotations

import logging
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import kind_models
import numpy as np
import pandas as pd
import pytest
from kind_models import IRIS, NAMES, ROWS
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from pyfuncserver.errors import InvalidInput, StartupError
from pyfuncserver.model import kinds, loader
from pyfuncserver.model.description import Description
from pyfuncserver.model.kinds.sklearn import Estimator

PLAIN = kind_models.iris(named=False)
NAMED = kind_models.iris(named=True)
ENCODED = make_pipeline(OrdinalEncoder(), LogisticRegression()).fit([["a"], ["b"]], [0, 1])
WORDED = make_pipeline(
    ColumnTransformer([("text", TfidfVectorizer(), "text"), ("size", StandardScaler(), ["size"])]),
    LogisticRegression(),
).fit(pd.DataFrame({"text": ["good film", "bad film"], "size": [1.0, 2.0]}), [1, 0])


class Chosen(BaseEstimator, TransformerMixin):
    """A transformer of somebody's own, which keeps no note of the features it was fitted to."""

    def fit(self, rows: Any, _: Any = None) -> Any:
        return self

    def transform(self, rows: Any) -> Any:
        return rows[["b", "a"]].to_numpy() if isinstance(rows, pd.DataFrame) else np.asarray(rows)


def described(estimator: Any, default: str = "predict") -> tuple[list[Any], list[Any]]:
    told = Description(signature=Estimator(estimator, default).signature)
    return [tuple(vars(it).values()) for it in told.inputs], [
        tuple(vars(it).values()) for it in told.outputs
    ]


def answer(estimator: Any, data: Any, **params: Any) -> Any:
    model = Estimator(estimator)
    return model.predict(model.read(data), params)


def test_what_it_says_of_itself() -> None:
    assert described(PLAIN) == (
        [("input-0", "FP64", (-1, 4))],
        [("predict", "INT64", (-1,))],
    )
    assert described(NAMED)[0] == [(name, "FP64", (-1,)) for name in NAMES]
    assert described(NAMED, "predict_proba")[1] == [("predict_proba", "FP64", (-1, 3))]
    labelled = kind_models.iris(named=False, classes=kind_models.LABELS[IRIS.target])
    assert described(labelled)[1] == [("predict", "BYTES", (-1,))]
    assert described(kind_models.words())[0] == [("input-0", "BYTES", (-1,))]
    assert described(kind_models.mixed())[0] == [
        ("size", "FP64", (-1,)),
        ("colour", "BYTES", (-1,)),
    ]


def test_what_other_estimators_give() -> None:
    two = np.stack([IRIS.target, IRIS.target], axis=1)
    outputs = [
        (LinearRegression().fit(IRIS.data, IRIS.target), "FP64", (-1,)),
        (DecisionTreeRegressor().fit(IRIS.data, two.astype(float)), "FP64", (-1, 2)),
        (DecisionTreeClassifier().fit(IRIS.data, two), "INT64", (-1, 2)),
        (KMeans(2, n_init=1).fit(IRIS.data), "INT64", (-1,)),
    ]
    for estimator, datatype, shape in outputs:
        assert described(estimator)[1] == [("predict", datatype, shape)]
        assert len(answer(estimator, ROWS)) == 2


@pytest.mark.filterwarnings("error")  # of names that are missing, or not known
@pytest.mark.parametrize("estimator", [PLAIN, NAMED])
def test_methods(estimator: Any) -> None:
    likely = answer(estimator, ROWS, method="predict_proba")
    assert answer(estimator, ROWS).tolist() == likely.argmax(axis=1).tolist() == [0, 2]
    both = answer(estimator, ROWS, method="predict, predict_proba")
    assert list(both) == ["predict", "predict_proba"]
    for wrong in ("fit", "", "__init__", ","):
        model = Estimator(estimator)
        if wrong:
            with pytest.raises(InvalidInput, match="names none of predict, predict_proba"):
                model.predict(model.read(ROWS), {"method": wrong})


def test_outputs_that_are_asked_for() -> None:
    model = Estimator(PLAIN)
    for names in ([], ["predict"], ["?"]):
        assert model.params_for(names, {}) == {}
    for params in (
        model.params_for(["predict_proba"], {}),
        model.params_for(["predict_proba"], {"method": "predict"}),
        model.params_for([], {"method": "predict_proba"}),
    ):
        assert list(model.predict(model.read(ROWS), params)) == ["predict_proba"]
    likely = Estimator(PLAIN, "predict_proba")
    assert likely.params_for(["predict"], {}) == {"method": "predict,"}


@pytest.mark.parametrize(
    ("estimator", "data", "said"),
    [
        (PLAIN, [[1, None, 2, 3]], "missing values"),
        (PLAIN, [[1, float("inf"), 2, 3]], "infinite"),
        (PLAIN, [["secret", 1, 2, 3]], "a text where this model takes a number"),
        (kind_models.mixed(), [{"size": 1, "colour": "secret"}], "a category that"),
        (kind_models.mixed(), [{"size": 1, "colour": 3}], "a category that"),
        (kind_models.mixed(), [{"size": 1, "colour": None}], "a category that"),
        (ENCODED, [[1]], "is not of the type that this model takes"),
        (ENCODED, [[None]], "is not of the type that this model takes"),
        (WORDED, [{"text": 3, "size": 1}], "is not of the type that this model takes"),
        (WORDED, [{"text": None, "size": 1}], "is not of the type that this model takes"),
        (kind_models.words(), [1], "no list of texts"),
        (PLAIN, np.zeros((0, 4)), "has no rows"),
        (NAMED, np.zeros((0, 4)), "has no rows"),
    ],
)
def test_data_that_it_does_not_take(estimator: Any, data: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as raised:
        answer(estimator, data)
    assert "secret" not in str(raised.value)


def test_texts_and_categories() -> None:
    assert answer(kind_models.words(), ["good", "bad film"]).tolist() == [1, 0]
    rows = [{"size": 1, "colour": "red"}, {"colour": "blue", "size": 4}]
    assert answer(kind_models.mixed(), rows).tolist() == [0, 1]
    assert answer(kind_models.mixed(), [[1, "red"], [4, "blue"]]).tolist() == [0, 1]


@pytest.mark.parametrize(
    "columns",
    [["b"], [1], slice(1, 2), slice("b", "b"), [False, True], lambda _: ["b"]],
    ids=["name", "place", "slice", "slice of names", "mask", "function"],
)
def test_columns_of_texts_however_they_were_chosen(columns: Any) -> None:
    encoder = ColumnTransformer([("b", OneHotEncoder(), columns)], remainder="passthrough")
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]})
    model = make_pipeline(encoder, LogisticRegression()).fit(frame, [0, 1])
    assert described(model)[0] == [("a", "FP64", (-1,)), ("b", "BYTES", (-1,))]


def test_a_missing_category_that_is_ignored() -> None:
    for missing in (None, 3):
        encoder = ColumnTransformer(
            [("colour", OneHotEncoder(handle_unknown="ignore"), ["colour"])],
            remainder="passthrough",
        )
        frame = pd.DataFrame({"size": [1.0, 2.0], "colour": ["red", "blue"]})
        model = make_pipeline(encoder, LogisticRegression()).fit(frame, [0, 1])
        assert answer(model, [{"size": 1, "colour": missing}]).tolist() in ([0], [1])


def test_an_estimator_that_does_not_tell_its_features() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [3.0, 1.0, 2.0]})
    model = make_pipeline(Chosen(), LinearRegression()).fit(frame, [1, 2, 3])
    for data in (frame, frame.to_dict("records"), frame.to_dict("list")):
        assert answer(model, data) == pytest.approx([1, 2, 3])
    narrow = make_pipeline(Chosen(), LinearRegression()).fit([[1.0], [2.0]], [1, 2])
    assert answer(narrow, [[1], [2]]) == pytest.approx([1, 2])


# Loading


class Constant:
    """Has a predict, and nothing else of an estimator."""

    def predict(self, rows: Any) -> Any:
        return [len(rows)]


class Bomb:
    """Runs code when it is loaded, as a pickle may."""

    def __reduce__(self) -> Any:
        return sys.exit, ("boom",)


class Missing:
    def __reduce__(self) -> Any:
        return __import__, ("no_such_library",)


def load(path: Path, **options: Any) -> loader.LoadedModel:
    return loader.load(str(path), options=kinds.Options(**options))


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(StartupError) as raised:
        load(path, **options)
    text = str(raised.value)
    assert text.startswith(f"the model {path} cannot be loaded: ")
    assert "\n" not in text
    assert raised.value.status == 1
    return text.removeprefix(f"the model {path} cannot be loaded: ")


@pytest.mark.parametrize("save", [kind_models.save_joblib, kind_models.save_pickle])
@pytest.mark.parametrize("name", ["model.joblib", "model.pkl", "model.pickle"])
def test_a_pickle_is_announced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, save: Any, name: str
) -> None:
    save(PLAIN, tmp_path / name)
    with caplog.at_level(logging.WARNING):
        loaded = load(tmp_path)
    assert f"{name} is a pickle: to load it runs whatever code it holds" in caplog.text
    assert loaded.loader_module == "pyfuncserver.model.kinds.sklearn"
    assert Description(loaded.loader_module).platform == "sklearn_estimator"
    assert loaded.pyfunc.predict(np.array(ROWS)).tolist() == [0, 2]


def test_what_has_a_predict_is_served(tmp_path: Path) -> None:
    model = load(kind_models.save_pickle(Constant(), tmp_path / "m.pkl")).pyfunc
    assert model.predict([[1], [2]]) == [2]


def test_another_version_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = pickle.dumps(LinearRegression().fit(IRIS.data, IRIS.target))
    version = __import__("sklearn").__version__.encode()
    other = b"0" + b".0" * ((len(version) - 1) // 2) + b"1" * ((len(version) - 1) % 2)
    assert len(other) == len(version)
    (tmp_path / "m.pkl").write_bytes(data.replace(version, other))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path)
    assert "while the model was loaded: InconsistentVersionWarning: " in caplog.text


def test_files_that_are_no_models(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    for content in (b"hello world", b"", pickle.dumps(PLAIN)[:100]):
        path.write_bytes(content)
        assert "m.pkl cannot be read as a pickle: " in refusal(path)
    kind_models.save_pickle({"a": 1}, path)
    assert refusal(path) == "m.pkl holds a dict, which has no predict"
    kind_models.save_pickle(Bomb(), path)
    assert refusal(path) == "m.pkl cannot be read as a pickle: SystemExit: boom"
    kind_models.save_pickle(Missing(), path)
    assert "it needs the module no_such_library, which is not installed" in refusal(path)


def test_a_library_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kinds.artefact.EXTRAS, "no_such_library", "sklearn")
    said = "which is not installed: pip install 'pyfuncserver[sklearn]'"
    assert said in refusal(kind_models.save_pickle(Missing(), tmp_path / "m.pkl"))


def test_predict_proba_of_a_model_that_has_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = kind_models.save_pickle(
        LinearRegression().fit(IRIS.data, IRIS.target), tmp_path / "m.pkl"
    )
    with caplog.at_level(logging.WARNING):
        load(path, predict_proba=True)
    assert "PREDICT_PROBA has no effect: a LinearRegression has no predict_proba" in caplog.text


def test_skops(tmp_path: Path) -> None:
    io = pytest.importorskip("skops.io", reason="skops IS NOT INSTALLED")
    path = tmp_path / "m.skops"
    path.write_text("no archive")
    assert "m.skops cannot be read as a skops file: BadZipFile" in refusal(path)
    io.dump(PLAIN, path)
    assert load(path).pyfunc.predict(np.array(ROWS)).tolist() == [0, 2]
    io.dump(Constant(), path)
    (name,) = io.get_untrusted_types(file=path)
    assert refusal(path) == (
        f"m.skops has types that skops does not trust, {name}: if you do, set SKOPS_TRUSTED={name}"
    )
    assert load(path, skops_trusted=(name,)).pyfunc.predict([[1]]) == [1]
