"""Models that stream. Import this module where warnings are not errors, as `models.py`."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import mlflow.pyfunc
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

cloudpickle.register_pickle_by_value(sys.modules[__name__])

SECRET = "the streaming model's own secret"


class Commanded(mlflow.pyfunc.PythonModel):
    """Streams what the input says: a dict, or JSON of it. `notes` names a file to write into."""

    def predict(self, context, model_input, params=None):
        return {"whole": True, "thread": threading.current_thread().name}

    def predict_stream(self, context, model_input, params=None):
        command = json.loads(model_input) if isinstance(model_input, str) else model_input
        return parts(command)


def parts(command: dict[str, Any]) -> Iterator[Any]:
    """Give `n` parts of `size` characters, and do at `at` what `then` says, before that part."""
    note = Notes(command.get("notes", os.devnull))
    n = int(command.get("n", 3))
    try:
        for number in range(n):
            if number == int(command.get("at", -1)):
                act(command)
            note.add(f"made {number}")
            if "size" in command:
                yield "x" * int(command["size"])
            else:
                yield {"number": number, "thread": threading.current_thread().name}
        note.add("ended")
    except GeneratorExit:
        note.add("closed")
        raise


def act(command: dict[str, Any]) -> None:
    if command["then"] == "wait":
        give_up_at = time.monotonic() + 20
        while not Path(command["signal"]).exists() and time.monotonic() < give_up_at:
            time.sleep(0.005)
    elif command["then"] == "sleep":
        time.sleep(float(command["seconds"]))
    elif command["then"] == "fail":
        raise RuntimeError(SECRET)
    elif command["then"] == "log":
        logging.getLogger("model").warning("a line of the model's")


class Notes:
    def __init__(self, path: str) -> None:
        self.path = path

    def add(self, line: str) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")


class Words(mlflow.pyfunc.PythonModel):
    """Its `predict` gives an iterator; it has the input `prompt` and the parameter `mark`."""

    def predict(self, context, model_input, params=None):
        mark = (params or {}).get("mark", "")
        return (f"{word}{mark} " for word in model_input["prompt"].iloc[0].split())


class Prompted(mlflow.pyfunc.PythonModel):
    """Streams dicts, from a signature with `prompt` and `count`."""

    def predict(self, context, model_input, params=None):
        return model_input["prompt"].str.upper().tolist()

    def predict_stream(self, context, model_input, params=None):
        for number in range(model_input["count"]):
            text = f"{model_input['prompt']}{params['mark']}"
            yield {"text_output": text, "number": number, "model_name": "an impostor"}


class Agent(mlflow.pyfunc.PythonModel):
    """Does what the function does that `test_streaming.py` gives to MLflow's AgentServer."""

    def predict(self, context, model_input, params=None):
        raise NotImplementedError

    def predict_stream(self, context, model_input, params=None):
        for number in range(model_input["n"]):
            if number == model_input.get("at"):
                raise RuntimeError("it fails")
            yield {"number": number, "text": "\u00e9", "one": 1.0, "nothing": None}


def _save(model: mlflow.pyfunc.PythonModel, path: Path, **options: Any) -> Path:
    mlflow.pyfunc.save_model(str(path), python_model=model, pip_requirements=[], **options)
    return path


PARAMS = ParamSchema([ParamSpec("mark", DataType.string, "")])


def save_commanded(path: Path) -> Path:
    return _save(Commanded(), path)


def save_agent(path: Path) -> Path:
    return _save(Agent(), path)


def save_words(path: Path) -> Path:
    inputs = Schema([ColSpec(DataType.string, "prompt")])
    return _save(Words(), path, signature=ModelSignature(inputs=inputs, params=PARAMS))


def save_prompted(path: Path) -> Path:
    inputs = Schema([ColSpec(DataType.string, "prompt"), ColSpec(DataType.long, "count")])
    return _save(Prompted(), path, signature=ModelSignature(inputs=inputs, params=PARAMS))
