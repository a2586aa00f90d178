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
from collections.abc import Collection, Iterator, Mapping, Sequence
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

GENERATION, SEQ2SEQ, ZERO_SHOT, FEATURES = (
    "text-generation",
    "text2text-generation",
    "zero-shot-classification",
    "feature-extraction",
)
_LONGEST_GENERATED = 256
"""Tokens, where neither the call nor the model's own configuration says; as the pipelines do."""
_NO_LENGTH = (None, 20)
"""What a model's configuration of generation has for ``max_length`` where nobody has set it."""
_NO_WORDS = {"▁"}
"""What a tokenizer knows, beside special tokens, when it had no file to learn from."""
_PLACES = ("position_embeddings", "wpe")
"""How the names of tables of places in a text end: BERT's and its kin's, GPT-2's."""
_MOST_NAMED = 4
"""Weights that a refusal names."""


@dataclass(frozen=True)
class Task:
    """What a task takes and gives."""

    model: str
    """The class that loads a model for it."""
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
        "AutoModelForSequenceClassification",
        {"top_k": "long", "function_to_apply": "string"},
        outputs={LABEL: str, SCORE: np.float64},
        fixed=_CUT,
    ),
    "token-classification": Task(
        "AutoModelForTokenClassification", {"aggregation_strategy": "string"}
    ),
    "question-answering": Task(
        "AutoModelForQuestionAnswering",
        {"top_k": "long", "max_answer_len": "long"},
        inputs=("question", "context"),
    ),
    "fill-mask": Task("AutoModelForMaskedLM", {"top_k": "long"}, fixed={"tokenizer_kwargs": _CUT}),
    FEATURES: Task("AutoModel", fixed=_CUT),
    ZERO_SHOT: Task(
        "AutoModelForSequenceClassification",
        {"candidate_labels": "string", "multi_label": "boolean", "hypothesis_template": "string"},
    ),
    GENERATION: Task(
        "AutoModelForCausalLM",
        {**_GENERATE, "return_full_text": "boolean"},
        outputs={GENERATED: str},
    ),
    SEQ2SEQ: Task("AutoModelForSeq2SeqLM", _GENERATE, outputs={GENERATED: str}),
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
    "Model": FEATURES,
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
        if "trust_remote_code" in str(error):
            raise Unloadable("it needs code of its own, which this server does not run") from error
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
    is_generator = task in (GENERATION, SEQ2SEQ)
    known = transformers.pipelines.PIPELINE_REGISTRY.get_supported_tasks()
    if not is_generator and task not in known:
        raise Unloadable(f"transformers {transformers.__version__} has no pipeline for {task}")
    tokenizer = _tokenizer(path, transformers)
    model = _model(path, task, transformers)
    if is_generator:
        return Generator(task, torch, transformers, tokenizer, model)
    tokenizer.model_max_length = min(tokenizer.model_max_length, _room(model, torch))
    pipeline = transformers.pipeline(task, model=model, tokenizer=tokenizer, device="cpu")
    made = Pipeline(task, pipeline)
    if task == FEATURES:
        _try(made)
    return made


_WISHES = {"local_files_only": True, "trust_remote_code": False}


def _tokenizer(path: Path, transformers: Any) -> Any:
    """Raises: Unloadable where its files are missing: the library may make one without words."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, **_WISHES)
    except TypeError as error:  # so it is with transformers 4
        raise Unloadable(f"its tokenizer cannot be read: {artefact.reason_of(error)}") from error
    if set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens) <= _NO_WORDS:
        raise Unloadable("its tokenizer cannot be read: it knows no words")
    return tokenizer


def _model(path: Path, task: str, transformers: Any) -> Any:
    """Raises: Unloadable for weights that are not there, which the library makes up at random."""
    loader = getattr(transformers, TASKS[task].model)
    told_of = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    model, told = loader.from_pretrained(path, **told_of, **_WISHES)
    # With their sizes since transformers 5.
    misfits = [it if isinstance(it, str) else it[0] for it in told["mismatched_keys"]]
    if misfits:
        raise Unloadable(f"its config.json has other sizes than its weights: {_listed(misfits)}")
    missing = set(told["missing_keys"])
    if task == FEATURES:  # which are taken before the pooling
        missing = {name for name in missing if "pooler." not in name}
    if missing:
        raise Unloadable(
            f"its weights lack {_listed(missing)}, which {task} needs: name what it was trained "
            "for by --model_task"
        )
    return model.eval()


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(sorted(names)[:_MOST_NAMED]) + more


def _room(model: Any, torch: Any) -> float:
    """Give the tokens that a model has places for; without end where it counts none.

    Not every tokenizer was saved with that number. RoBERTa's kin count on from the padding's place.
    """
    tables = [
        part
        for name, part in model.named_modules()
        if name.endswith(_PLACES) and isinstance(part, torch.nn.Embedding)
    ]
    firsts = [0 if it.padding_idx is None else it.padding_idx + 1 for it in tables]
    sizes = [it.num_embeddings - first for it, first in zip(tables, firsts, strict=True)]
    return min(sizes, default=float("inf"))


def _try(made: Artefact) -> None:
    """Raises: Unloadable for a model of more than one text, as of images, or of a decoder."""
    try:
        made.predict(["a"])
    except Exception as error:
        reason = artefact.reason_of(error)
        raise Unloadable(f"its architecture does not take a text alone: {reason}") from error


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
    counts: tuple[str, ...] = ()
    """The params that are 1 at least, which the library does not check."""

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
        for name in self.counts:
            if given.get(name, 1) < 1:
                raise InvalidInput(f"{name} must be 1 or more")
        return given


class Pipeline(_Texts):
    """A task with a pipeline of the library's; see :class:`~.artefact.Artefact`."""

    counts = ("top_k",)

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
            refusal = self._refusal(error, item, given)
            if refusal:
                raise InvalidInput(refusal) from error
            raise
        is_one = LABEL in self._task.outputs and isinstance(answer, list) and len(answer) == 1
        return answer[0] if is_one else answer

    def _refusal(self, error: Exception, item: Any, given: Params) -> str:
        """Say what is wrong with a call; empty where it is not the client's fault."""
        is_text = isinstance(item, str)
        with self._lock:
            if is_text and not self._pipeline.tokenizer(item)["input_ids"]:
                return "A text is empty"
        is_about_texts = isinstance(error, ValueError) or "Truncation error" in str(error)
        # As of a text without a mask, or an empty question.
        if type(error).__name__ == "PipelineException" or (not is_text and is_about_texts):
            return "The text is not one that this task takes"
        kinds = ValueError | TypeError | KeyError | IndexError
        if given and (isinstance(error, kinds) or "k out of range" in str(error)):
            return f"One of {', '.join(given)} is not as it must be"
        return ""


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
    counts = ("num_beams",)

    def __init__(self, task: str, torch: Any, library: Any, tokenizer: Any, model: Any) -> None:
        super().__init__(task)
        self._is_causal = task == GENERATION
        self._torch = torch
        self._library = library
        self._tokenizer = tokenizer
        self._model = model
        if tokenizer.pad_token is None:
            names = (tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token)
            tokenizer.pad_token = next(filter(None, names), None)
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
        encoded = self._tokenizer(list(texts))
        if not all(encoded["input_ids"]):
            raise InvalidInput("A text is empty")
        encoded = self._tokenizer.pad(encoded, return_tensors="pt")
        encoded.pop("token_type_ids", None)  # a causal model takes none
        room = getattr(self._model.config, "max_position_embeddings", None) or float("inf")
        used = encoded["input_ids"].shape[1]
        wanted = given.get("max_new_tokens", 1)
        if (used + wanted if self._is_causal else max(used, wanted)) > room:
            raise InvalidInput(f"The text and max_new_tokens are longer than {room} tokens")
        left = room - used if self._is_causal else room
        given.setdefault("max_new_tokens", min(self._own_length(used), left))
        return encoded

    def _own_length(self, used: int) -> int:
        """Give the tokens to generate, after so many, where the call does not say."""
        own = self._model.generation_config
        if own.max_new_tokens is not None:
            return int(own.max_new_tokens)
        if own.max_length in _NO_LENGTH:
            return _LONGEST_GENERATED
        return max(1, int(own.max_length) - (used if self._is_causal else 1))

    def _generate(self, encoded: Any, given: Params, **others: Any) -> Any:
        try:
            with self._torch.inference_mode():
                return self._model.generate(
                    **encoded, **given, pad_token_id=self._tokenizer.pad_token_id, **others
                )
        except (ValueError, TypeError) as error:  # it checks its params by these
            raise InvalidInput(f"One of {', '.join(given)} is not as it must be") from error
