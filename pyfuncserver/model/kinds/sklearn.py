"""scikit-learn's estimators, or what is like them: a pickle, a joblib or a skops file.

They answer with their ``predict``; a call's param ``method`` names another of their methods, or
several with commas, which are then answered by name. V2's clients ask for those as outputs, as they
do of MLServer (https://docs.seldon.ai/mlserver/runtimes/sklearn); ``PREDICT_PROBA``, which KServe's
server knows, has ``predict_proba`` be the one that is used where a call names none.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.kinds import artefact
from pyfuncserver.model.kinds.artefact import Artefact, Options, Params, Unloadable, module
from pyfuncserver.model.kinds.table import Table, columns_by_name
from pyfuncserver.model.kinds.texts import texts_of

log = logging.getLogger(__name__)

PREDICT, PREDICT_PROBA, METHOD = "predict", "predict_proba", "method"
METHODS = (
    *(PREDICT, PREDICT_PROBA, "predict_log_proba", "decision_function"),
    *("score_samples", "transform"),
)

_ANOTHER_TYPE = "The input has a value that is not of the type that this model takes"
_REFUSALS = {
    "Found array with 0 sample(s)": "The input has no rows",
    "must be 2 dimensional and non empty": "The input has no rows",  # LightGBM's
    "contains NaN": "The input has missing values, which this model does not take",
    "contains infinity": "The input has an infinite value, or one that is too large",
    "Found unknown categories": "The input has a category that this model does not know",
    "could not convert string to float": "The input has a text where this model takes a number",
    "ufunc 'isnan' not supported": _ANOTHER_TYPE,
    "is an invalid document": _ANOTHER_TYPE,
    "has no attribute 'lower'": _ANOTHER_TYPE,
}
"""What scikit-learn says of data, and what a client is told, which never is its own data."""


def load(path: Path, options: Options) -> Artefact:
    """Load a file. Raises: Unloadable; what a pickle's own code raises"""
    module("sklearn")
    with _warnings_logged():
        estimator = _of_skops(path, options) if path.suffix == ".skops" else _unpickled(path)
    if not callable(getattr(estimator, PREDICT, None)):
        raise Unloadable(f"{path.name} holds a {type(estimator).__name__}, which has no predict")
    if options.predict_proba and not callable(_told(estimator, PREDICT_PROBA)):
        named = type(estimator).__name__
        log.warning("PREDICT_PROBA has no effect: a %s has no %s", named, PREDICT_PROBA)
    return Estimator(estimator, PREDICT_PROBA if options.predict_proba else PREDICT)


@contextmanager
def _warnings_logged() -> Iterator[None]:
    """Log what is warned of, as that a file was written by another version of scikit-learn."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(f"{it.category.__name__}: {it.message}" for it in caught):
        log.warning("while the model was loaded: %s", " ".join(text.split()))


def _unpickled(path: Path) -> Any:
    log.warning("%s is a pickle: to load it runs whatever code it holds", path.name)
    try:
        return module("joblib").load(path)
    except (Unloadable, ModuleNotFoundError):
        raise
    except BaseException as error:  # code of the pickle's own: it may call sys.exit
        reason = artefact.reason_of(error)
        raise Unloadable(f"{path.name} cannot be read as a pickle: {reason}") from error


def _of_skops(path: Path, options: Options) -> Any:
    """Load a file of types; those that skops does not trust by itself have to be named."""
    io = module("skops.io")
    try:
        untrusted = io.get_untrusted_types(file=path)
    except Exception as error:
        reason = artefact.reason_of(error)
        raise Unloadable(f"{path.name} cannot be read as a skops file: {reason}") from error
    unknown = [name for name in untrusted if name not in options.skops_trusted]
    if unknown:
        named = ",".join([*options.skops_trusted, *unknown])
        raise Unloadable(
            f"{path.name} has types that skops does not trust, {', '.join(unknown)}: "
            f"if you do, set SKOPS_TRUSTED={named}"
        )
    return io.load(path, trusted=untrusted)


class Estimator(Artefact):
    """An estimator; see :class:`~.artefact.Artefact`."""

    def __init__(self, estimator: Any, default: str = PREDICT) -> None:
        self._estimator = estimator
        self._methods = [name for name in METHODS if callable(_told(estimator, name))]
        self._default = default if default in self._methods else PREDICT
        names, width = _told(estimator, "feature_names_in_"), _told(estimator, "n_features_in_")
        self._is_text = names is None and _takes_texts(estimator)
        self._table = Table(
            None if names is None else [str(name) for name in names],
            None if width is None or self._is_text else int(width),
            text_columns(estimator),
        )

    @property
    def signature(self) -> Any:
        params = {METHOD: ("string", self._default)}
        return artefact.signature(self._inputs(), self._outputs(), params)

    def _inputs(self) -> Any:
        if self._table.names is not None:
            texts = self._table.texts
            kinds = {name: "string" if name in texts else "double" for name in self._table.names}
            return artefact.columns(kinds)
        if self._is_text:
            return artefact.tensors([(None, str, (-1,))])
        if self._table.width is None:
            return None
        return artefact.tensors([(None, np.float64, (-1, self._table.width))])

    def _outputs(self) -> Any:
        classes = _told(self._estimator, "classes_")
        if self._default != PREDICT:
            width = len(classes) if isinstance(classes, np.ndarray) else -1
            return artefact.tensors([(self._default, np.float64, (-1, width))])
        known = _predicted(self._estimator, classes)
        return None if known is None else artefact.tensors([(PREDICT, *known)])

    def read(self, data: Any) -> Any:
        if self._is_text:
            return texts_of(data)
        if self._table.names is not None:
            return self._table.frame(data)
        columns = columns_by_name(data) if self._table.width is None else None
        if columns is not None:  # what it takes them by is for itself to know
            return Table(list(columns)).frame(columns)
        return self._table.objects(data)

    def predict(self, data: Any, params: Params | None = None) -> Any:
        wanted = str((params or {}).get(METHOD) or self._default)
        names = _names(wanted)
        if not names or not set(names) <= set(self._methods):
            raise InvalidInput(f'"{METHOD}" names none of {", ".join(self._methods)}')
        answers = {name: self._answer(name, data) for name in names}
        return answers if "," in wanted else answers[wanted.strip()]

    def _answer(self, method: str, data: Any) -> Any:
        try:
            return getattr(self._estimator, method)(data)
        except (ValueError, TypeError, AttributeError) as error:
            for said, told in _REFUSALS.items():
                if said in str(error):
                    raise InvalidInput(told) from error
            raise

    def params_for(self, outputs: Sequence[str], given: Params) -> Params:
        names = list(outputs) or _names(given.get(METHOD))
        if not names or names == [self._default] or not set(names) <= set(self._methods):
            return {}
        return {METHOD: "".join(f"{name}," for name in names)}


def _names(text: Any) -> list[str]:
    return [name.strip() for name in str(text or "").split(",") if name.strip()]


def _told(estimator: Any, name: str) -> Any:
    """Give an attribute; None where there is none, or an estimator of its own kind raises."""
    try:
        return getattr(estimator, name, None)
    except Exception as error:
        log.debug("the model does not tell its %s", name, exc_info=error)
        return None


def _predicted(estimator: Any, classes: Any) -> tuple[Any, tuple[int, ...]] | None:
    """Give the type and the shape of what ``predict`` gives; None where that cannot be told."""
    base = module("sklearn.base")
    if isinstance(classes, list):  # several targets
        return _type_of(classes[0]), (-1, len(classes))
    if classes is not None:
        return _type_of(classes), (-1,)
    if not isinstance(estimator, base.BaseEstimator):
        return None
    if not base.is_regressor(estimator):
        return np.int64, (-1,)  # clusters, and outliers
    targets = _told(estimator, "n_outputs_")
    return np.float64, (-1, targets) if isinstance(targets, int) and targets > 1 else (-1,)


def _type_of(classes: Any) -> Any:
    dtype = np.asarray(classes).dtype
    return dtype if dtype.kind in "biuf" else np.dtype(str)


def _takes_texts(estimator: Any) -> bool:
    """Match what begins with one of scikit-learn's vectorizers, which take a list of texts."""
    steps = _told(estimator, "steps")
    first = steps[0][1] if steps else estimator
    return callable(_told(first, "build_analyzer"))


def text_columns(estimator: Any) -> set[str]:
    """Name the columns that are texts, as far as encoders and vectorizers in it tell."""
    found: set[str] = set()
    for step in [step for _, step in _told(estimator, "steps") or ()] or [estimator]:
        known = _told(step, "feature_names_in_")
        places = _told(step, "_transformer_to_input_indices")  # resolved, whatever they were
        if known is None or places is None:
            continue
        for label, part, _ in _told(step, "transformers_") or ():
            names = [str(known[place]) for place in places.get(label, ())]
            found.update(name for name, is_text in _kinds(part, names) if is_text)
    return found


def _kinds(part: Any, names: list[str]) -> Iterator[tuple[str, bool]]:
    """Tell of each column whether a part of a ColumnTransformer takes it as a text."""
    for step in [step for _, step in _told(part, "steps") or ()] or [part]:
        categories = _told(step, "categories_")
        if categories is not None and len(categories) == len(names):
            kinds = (np.asarray(values).dtype.kind for values in categories)
            yield from zip(names, (kind in "OUST" for kind in kinds), strict=True)
        elif callable(_told(step, "build_analyzer")):
            yield from ((name, True) for name in names)
