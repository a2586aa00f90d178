"""Hugging Face models for text: a directory that ``save_pretrained`` wrote, run by PyTorch's CPU.

The task is what the configuration's ``architectures`` end with (``BertForTokenClassification``:
token-classification), or ``MODEL_TASK``. Nothing is fetched, and no code of the model's own is run.
A call's params are those of the task's pipeline, or of ``generate``:
https://huggingface.co/docs/transformers/main_classes/pipelines
"""

from __future__ import annotations

import json as stdlib_json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pyfuncserver.codec import json
from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.kinds import artefact
from pyfuncserver.model.kinds.artefact import Artefact, Options, Params, Unloadable, module
from pyfuncserver.model.kinds.texts import records_of, texts_of

TEXT, LABEL, SCORE, GENERATED, ANSWER = "text", "label", "score", "generated_text", "answer"
AS_JSON = "as_json"
"""The param by which a nested answer comes as a JSON text for each row, as V2 needs it."""

GENERATION, SEQ2SEQ, ZERO_SHOT = (
    "text-generation",
    "text2text-generation",
    "zero-shot-classification",
)
_LONGEST_GENERATED = 256
"""Tokens, where neither the call nor the model's own configuration says; as the pipelines do."""


@dataclass(frozen=True)
class Task:
    """What a task takes and gives."""

    params: Mapping[str, str] = field(default_factory=dict)
    """The params that a call may have, with MLflow's type of each."""
    inputs: tuple[str, ...] = (TEXT,)
    outputs: Mapping[str, Any] = field(default_factory=lambda: {ANSWER: str})
    """By name the type of what each row has one value of."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """What its pipeline is called with in any case."""


_CUT: Mapping[str, Any] = {"truncation": True}
_GENERATE = {
    **dict.fromkeys(("max_new_tokens", "min_new_tokens", "top_k", "num_beams"), "long"),
    **dict.fromkeys(("temperature", "top_p", "repetition_penalty", "length_penalty"), "double"),
    "no_repeat_ngram_size": "long",
    "do_sample": "boolean",
}
TASKS = {
    "text-classification": Task(
        {"top_k": "long", "function_to_apply": "string"},
        outputs={LABEL: str, SCORE: np.float64},
        fixed=_CUT,
    ),
    "token-classification": Task({"aggregation_strategy": "string"}),
    "question-answering": Task(
        {"top_k": "long", "max_answer_len": "long"}, inputs=("question", "context")
    ),
    "fill-mask": Task({"top_k": "long"}, fixed={"tokenizer_kwargs": _CUT}),
    "feature-extraction": Task(fixed=_CUT),
    ZERO_SHOT: Task(
        {"candidate_labels": "string", "multi_label": "boolean", "hypothesis_template": "string"}
    ),
    GENERATION: Task({**_GENERATE, "return_full_text": "boolean"}, outputs={GENERATED: str}),
    SEQ2SEQ: Task(_GENERATE, outputs={GENERATED: str}),
}
_ALIASES = {
    "ner": "token-classification",
    "sentiment-analysis": "text-classification",
    "summarization": SEQ2SEQ,
}
_BY_ARCHITECTURE = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": GENERATION,
    "LMHeadModel": GENERATION,
    "ForConditionalGeneration": SEQ2SEQ,
    "Model": "feature-extraction",
}
"""By how the name of the class ends; the first that fits."""


def load(path: Path, options: Options) -> Artefact:
    """Load a directory. Raises: Unloadable"""
    task = _task(path, options)
    # Read when the libraries are imported.
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive a fork
    torch, transformers = module("torch"), module("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with _one_thread(torch):
            return _loaded(path, task, torch, transformers)
    except (Unloadable, ModuleNotFoundError):
        raise
    except Exception as error:
        reason = artefact.reason_of(error)
        raise Unloadable(f"it cannot be read by transformers: {reason}") from error


@contextmanager
def _one_thread(torch: Any) -> Iterator[None]:
    """Start none of OpenMP's threads: what had them could not be forked."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _loaded(path: Path, task: str, torch: Any, transformers: Any) -> Artefact:
    wishes = {"local_files_only": True, "trust_remote_code": False}
    if task in (GENERATION, SEQ2SEQ):
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, **wishes)
        kind = "AutoModelForCausalLM" if task == GENERATION else "AutoModelForSeq2SeqLM"
        model = getattr(transformers, kind).from_pretrained(path, **wishes)
        return Generator(task, torch, transformers, tokenizer, model.eval())
    known = transformers.pipelines.PIPELINE_REGISTRY.get_supported_tasks()
    if task not in known:
        raise Unloadable(f"transformers {transformers.__version__} has no pipeline for {task}")
    return Pipeline(
        task,
        transformers.pipeline(task, model=str(path), device="cpu", trust_remote_code=False),
    )


def _task(path: Path, options: Options) -> str:
    """Raises: Unloadable for a task that is not served, or cannot be told."""
    if options.task:
        task, said = _ALIASES.get(options.task, options.task), "MODEL_TASK"
    else:
        said = _architecture(path)
        task = next((it for end, it in _BY_ARCHITECTURE.items() if said.endswith(end)), "")
    if task not in TASKS:
        raise Unloadable(
            f"its task is not one that is served ({said}): those are {', '.join(TASKS)} "
            "(--model_task)"
        )
    return task


def _architecture(path: Path) -> str:
    try:
        config = stdlib_json.loads((path / "config.json").read_bytes())
        found = config["architectures"] if isinstance(config, dict) else None
    except (ValueError, KeyError):
        found = None
    if not isinstance(found, list) or not found:
        raise Unloadable("its config.json names no architectures: name its task by --model_task")
    return str(found[0])


class _Texts(Artefact):
    """What the tasks have in common. Thread-safe: one call at a time, as tokenizers want it."""

    may_nest = True
    """Whether an answer may be more than single values."""

    def __init__(self, task: str) -> None:
        self._task = TASKS[task]
        self._lock = threading.Lock()

    @property
    def signature(self) -> Any:
        free = (-1,)
        inputs = artefact.tensors([(name, str, free) for name in self._task.inputs])
        outputs = [(name, dtype, free) for name, dtype in self._task.outputs.items()]
        params: dict[str, tuple[str, Any]] = {
            name: (kind, None) for name, kind in self._task.params.items()
        }
        if self.may_nest:
            params[AS_JSON] = ("boolean", False)
        return artefact.signature(inputs, artefact.tensors(outputs), params)

    def read(self, data: Any) -> Any:
        names = self._task.inputs
        return texts_of(data) if len(names) == 1 else records_of(data, names)

    def params_for(self, outputs: Sequence[str], given: Params) -> Params:  # noqa: ARG002
        return {AS_JSON: True} if self.may_nest else {}

    def _given(self, params: Params | None) -> Params:
        given = {name: value for name, value in (params or {}).items() if value is not None}
        given.pop(AS_JSON, None)
        return given


class Pipeline(_Texts):
    """A task with a pipeline of the library's; see :class:`~.artefact.Artefact`."""

    def __init__(self, task: str, pipeline: Any) -> None:
        super().__init__(task)
        self._needs_labels = task == ZERO_SHOT
        self._pipeline = pipeline

    def predict(self, data: Any, params: Params | None = None) -> Any:
        given = self._given(params)
        if self._needs_labels:
            given["candidate_labels"] = _labels(given.get("candidate_labels"))
        answers = [self._answer(item, given) for item in data]
        is_nested = any(_is_nested(answer) for answer in answers)
        if is_nested and (params or {}).get(AS_JSON):
            return [json.dumps(answer).decode() for answer in answers]
        return answers

    def _answer(self, item: Any, given: Params) -> Any:
        # One at a time: of several some pipelines make batches, padded, some do not.
        arguments = {**item, **given} if isinstance(item, dict) else given
        inputs = () if isinstance(item, dict) else (item,)
        try:
            with self._lock:
                answer = self._pipeline(*inputs, **arguments, **self._task.fixed)
        except Exception as error:
            if type(error).__name__ == "PipelineException":  # as of a text without a mask
                raise InvalidInput("The text is not one that this task takes") from error
            if given and isinstance(error, ValueError | TypeError | KeyError):
                raise InvalidInput(f"One of {', '.join(given)} is not as it must be") from error
            raise
        is_one = LABEL in self._task.outputs and isinstance(answer, list) and len(answer) == 1
        return answer[0] if is_one else answer


def _labels(text: Any) -> list[str]:
    labels = [label.strip() for label in str(text or "").split(",") if label.strip()]
    if not labels:
        raise InvalidInput('The param "candidate_labels" is missing: labels with commas')
    return labels


def _is_nested(answer: Any) -> bool:
    if isinstance(answer, dict):
        return any(isinstance(value, list | dict) for value in answer.values())
    return isinstance(answer, list)


class Generator(_Texts):
    """A model that generates text; see :class:`~.artefact.Artefact`.

    Of a causal model the answer is what follows the prompt, as it is when it is streamed; with
    ``return_full_text`` the prompt stands before it.
    """

    streams = True
    may_nest = False

    def __init__(self, task: str, torch: Any, library: Any, tokenizer: Any, model: Any) -> None:
        super().__init__(task)
        self._is_causal = task == GENERATION
        self._torch = torch
        self._library = library
        self._tokenizer = tokenizer
        self._model = model
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if self._is_causal:
            tokenizer.padding_side = "left"

    def predict(self, data: Any, params: Params | None = None) -> Any:
        given = self._given(params)
        is_full = given.pop("return_full_text", False)
        with self._lock:
            encoded = self._encoded(data, given)
            found = self._generate(encoded, given)
            start = encoded["input_ids"].shape[1] if self._is_causal else 0
            texts = self._tokenizer.batch_decode(found[:, start:], skip_special_tokens=True)
        if not is_full:
            return texts
        return [prompt + text for prompt, text in zip(data, texts, strict=True)]

    def predict_stream(self, data: Any, params: Params | None = None) -> Iterator[str]:
        """Give the answer to one text in parts: whole words, as soon as they are there.

        Raises: InvalidInput; what the model raises
        """
        given = self._given(params)
        is_full = given.pop("return_full_text", False)
        if given.get("num_beams", 1) != 1:
            raise InvalidInput("num_beams must be 1 where the answer is streamed")
        if is_full:
            yield data
        streamer = self._library.TextIteratorStreamer(
            self._tokenizer, skip_prompt=self._is_causal, skip_special_tokens=True
        )
        stop, failures = threading.Event(), list[BaseException]()

        def generate() -> None:
            try:
                with self._lock:
                    encoded = self._encoded([data], given)
                    self._generate(encoded, given, streamer=streamer, stopping_criteria=[_on(stop)])
            except BaseException as error:  # noqa: BLE001  raised below, where it is heard
                failures.append(error)
                streamer.on_finalized_text("", stream_end=True)

        def _on(event: threading.Event) -> Any:
            def is_done(ids: Any, *_: Any, **__: Any) -> Any:
                return self._torch.full((ids.shape[0],), event.is_set(), dtype=self._torch.bool)

            return is_done

        thread = threading.Thread(target=generate, name="generate", daemon=True)
        thread.start()
        try:
            yield from (part for part in streamer if part)
        finally:
            stop.set()
            thread.join()
        if failures:
            raise failures[0]

    def _encoded(self, texts: Sequence[str], given: Params) -> Any:
        """Give tokens; raises: InvalidInput where there is no room for what is to be generated."""
        encoded = self._tokenizer(list(texts), return_tensors="pt", padding=True)
        encoded.pop("token_type_ids", None)  # a causal model takes none
        room = getattr(self._model.config, "max_position_embeddings", None)
        used = encoded["input_ids"].shape[1]
        wanted = given.get("max_new_tokens")
        if room and used + (1 if not self._is_causal else wanted or 1) > room:
            raise InvalidInput(f"The text and max_new_tokens are longer than {room} tokens")
        if wanted is None:
            own = getattr(self._model.generation_config, "max_new_tokens", None)
            left = room - used if room and self._is_causal else _LONGEST_GENERATED
            given["max_new_tokens"] = min(own or _LONGEST_GENERATED, left)
        return encoded

    def _generate(self, encoded: Any, given: Params, **others: Any) -> Any:
        try:
            with self._torch.inference_mode():
                return self._model.generate(
                    **encoded, **given, pad_token_id=self._tokenizer.pad_token_id, **others
                )
        except (ValueError, TypeError) as error:  # it checks its params by these
            raise InvalidInput(f"One of {', '.join(given)} is not as it must be") from error
