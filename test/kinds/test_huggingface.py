"""Hugging Face models for text: tiny ones with random weights, made here; nothing is fetched."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import kind_models
import numpy as np
import pytest
from harness import Daemon, run_daemon_expecting_exit
from kind_models import post, v2, v2_tensor

from pyfuncserver.errors import InvalidInput
from pyfuncserver.model import kinds

torch = pytest.importorskip("torch", reason="torch IS NOT INSTALLED (make test-huggingface)")
transformers = pytest.importorskip(
    "transformers", reason="transformers IS NOT INSTALLED (make test-huggingface)"
)

pytestmark = [
    pytest.mark.timeout(300),  # the libraries alone take a while to import
    pytest.mark.filterwarnings("default"),  # theirs, about each other
]
BOTH = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1"}
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat dog sat on mat a good bad film . is to be or not"
SPECIAL = {
    f"{kind}_token": f"[{word}]"
    for kind, word in zip(
        ("pad", "unk", "cls", "sep", "mask", "bos", "eos"),
        ("PAD", "UNK", "CLS", "SEP", "MASK", "CLS", "SEP"),
        strict=True,
    )
}
THREADS = {"WORKERS": "2", "OMP_NUM_THREADS": "2"}
TEXTS = ["the cat sat", "a good film"]
V1, GENERATE = "/v1/models/model-1:predict", "/v2/models/model/generate"
READY_S = 200
BERT = {
    "vocab_size": len(WORDS.split()),
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 2048,  # so that OpenMP's threads have something to do
    "max_position_embeddings": 32,
    "id2label": {0: "contradiction", 1: "entailment"},
    "label2id": {"contradiction": 0, "entailment": 1},
}


def save_tokenizer(path: Path, **special: str) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: place for place, word in enumerate(WORDS.split())}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=32, **(special or SPECIAL)
    )
    fast.save_pretrained(path)


def bert(name: str) -> Any:
    return getattr(transformers, name)(transformers.BertConfig(**BERT))


def gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=len(WORDS.split()), n_embd=16, n_layer=1, n_head=2, n_positions=32,
        bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def t5() -> Any:
    config = transformers.T5Config(
        vocab_size=len(WORDS.split()), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=3,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


def bart() -> Any:
    config = transformers.BartConfig(
        vocab_size=len(WORDS.split()), d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, max_position_embeddings=32, pad_token_id=0, bos_token_id=2,
        eos_token_id=3, decoder_start_token_id=2, forced_eos_token_id=None,
    )  # fmt: skip
    return transformers.BartForConditionalGeneration(config)


def save(path: Path, make: Callable[[], Any]) -> Path:
    torch.manual_seed(0)
    save_tokenizer(path)
    make().save_pretrained(path)
    return path


def change(file: Path, *without: str, **values: Any) -> None:
    """Write a file of JSON anew, without some of its fields and with others."""
    fields = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({name: fields[name] for name in fields if name not in without}))


def load(path: Path, task: str = "") -> Any:
    return kinds.artefact_of(kinds.load(kinds.find(path, "huggingface"), kinds.Options(task=task)))


def unloadable(path: Path, task: str = "") -> str:
    with pytest.raises(kinds.Unloadable) as raised:
        load(path, task)
    return str(raised.value)


def answer(model: Any, *texts: Any, **params: Any) -> Any:
    return model.predict(model.read(list(texts)), params)


def refusal(model: Any, *texts: Any, **params: Any) -> str:
    with pytest.raises(InvalidInput) as raised:
        answer(model, *texts, **params)
    return str(raised.value)


def serve(path: Path, **env: str) -> Daemon:
    return Daemon(path, env={**BOTH, **env}, ready_timeout_s=READY_S)


def test_classification(tmp_path: Path) -> None:
    save(tmp_path, lambda: bert("BertForSequenceClassification"))
    with serve(tmp_path, **THREADS, BATCH_MAX_SIZE="4") as daemon:
        expected = post(daemon, V1, {"instances": TEXTS}).json()["predictions"]
        assert [list(it) for it in expected] == [["label", "score"]] * 2
        records = [{"any": text} for text in TEXTS]
        assert post(daemon, V1, {"instances": records}).json()["predictions"] == expected
        frame = {"columns": ["text"], "data": [[text] for text in TEXTS]}
        answer = post(daemon, "/invocations", {"dataframe_split": frame})
        assert answer.json()["predictions"] == expected
        for shape in (TEXTS, [[text] for text in TEXTS]):
            outputs = v2(daemon, v2_tensor("any", "BYTES", shape)).json()["outputs"]
            assert [it["data"] for it in outputs] == [
                [it[name] for it in expected] for name in ("label", "score")
            ]
        over_grpc = kind_models.v2_grpc(
            daemon, ("any", np.array([t.encode() for t in TEXTS], object))
        )
        assert over_grpc["label"] == [it["label"].encode() for it in expected]
        both = post(daemon, V1, {"instances": TEXTS, "params": {"top_k": 2}}).json()["predictions"]
        assert [len(it) for it in both] == [2, 2]
        nested = v2(daemon, v2_tensor("any", "BYTES", TEXTS), parameters={"top_k": 2})
        texts = nested.json()["outputs"][0]["data"]
        assert [json.loads(text)[0]["label"] for text in texts] == [it["label"] for it in expected]
        told = kind_models.metadata(daemon)
        assert told["platform"] == "huggingface_pretrained"
        assert told["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
        assert [it["name"] for it in told["outputs"]] == ["label", "score"]
        long = post(daemon, V1, {"instances": ["the cat " * 100]})
        assert long.status == 200
        for wrong in ([1, 2], [["a", "b"]], []):
            assert post(daemon, V1, {"instances": wrong}).status == 400
        bad = {"instances": TEXTS, "params": {"function_to_apply": "secret"}}
        assert "secret" not in post(daemon, V1, bad).text
        assert post(daemon, V1, bad).status == 400
        assert_threads_predict(daemon)


def assert_threads_predict(daemon: Daemon) -> None:
    """With as many tokens as OpenMP's threads share, by workers forked from one that loaded it."""
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(post, daemon, V1, {"instances": ["the cat " * 16]}) for _ in range(8)]
        told = [future.result(timeout=120) for future in asked]
    assert [answer.status for answer in told] == [200] * 8
    assert sum("model.loader loaded" in line for line in daemon.log_lines()) == 1


def test_generation(tmp_path: Path) -> None:
    save(tmp_path, gpt2)
    with serve(tmp_path) as daemon:
        params = {"max_new_tokens": 4}
        (text,) = post(daemon, V1, {"instances": TEXTS[:1], "params": params}).json()["predictions"]
        assert len(text.split()) == 4
        full = {"instances": TEXTS[:1], "params": {**params, "return_full_text": True}}
        assert post(daemon, V1, full).json()["predictions"] == [TEXTS[0] + text]
        assert post(daemon, V1, {"instances": TEXTS}).status == 200
        outputs = v2(daemon, v2_tensor("x", "BYTES", TEXTS[:1]), parameters=params).json()[
            "outputs"
        ]
        assert [(it["name"], it["data"]) for it in outputs] == [("generated_text", [text])]
        body = {"text_input": TEXTS[0], "parameters": params}
        assert post(daemon, GENERATE, body).json()["text_output"] == text
        streamed = post(daemon, f"{GENERATE}_stream", body)
        assert streamed.status == 200
        parts = [line[6:] for line in streamed.text.splitlines() if line.startswith("data: ")]
        assert len(parts) > 1
        assert "".join(json.loads(part)["text_output"] for part in parts) == text
        for wrong in ({"max_new_tokens": 1000}, {"max_new_tokens": -1}, {"temperature": "x"}):
            body = {"instances": TEXTS[:1], "params": wrong}
            assert post(daemon, V1, body).status == 400, wrong
        body = {"text_input": TEXTS[0], "parameters": {"max_new_tokens": 1000}}
        answer = post(daemon, f"{GENERATE}_stream", body)
        assert "longer than 32 tokens" in answer.text


def test_sequence_to_sequence(tmp_path: Path) -> None:
    save(tmp_path, t5)
    with serve(tmp_path) as daemon:
        params = {"max_new_tokens": 3, "num_beams": 2}
        answer = post(daemon, V1, {"instances": TEXTS, "params": params})
        assert [type(it) for it in answer.json()["predictions"]] == [str, str]


@pytest.mark.parametrize(
    ("name", "task", "texts", "params"),
    [
        ("BertForTokenClassification", "", TEXTS, {}),
        ("BertForMaskedLM", "", ["the [MASK] sat", "a [MASK]"], {"top_k": 2}),
        ("BertModel", "", TEXTS, {}),
        (
            *("BertForSequenceClassification", "zero-shot-classification"),
            *(TEXTS, {"candidate_labels": "cat, film"}),
        ),
    ],
)
def test_nested_answers(
    tmp_path: Path, name: str, task: str, texts: list[str], params: dict[str, Any]
) -> None:
    save(tmp_path, lambda: bert(name))
    with serve(tmp_path, **(THREADS if name == "BertModel" else {}), MODEL_TASK=task) as daemon:
        answer = post(daemon, V1, {"instances": texts, "params": params})
        assert answer.status == 200, answer.text
        expected = answer.json()["predictions"]
        assert len(expected) == 2
        (output,) = v2(daemon, v2_tensor("x", "BYTES", texts), parameters=params).json()["outputs"]
        assert (output["name"], output["datatype"]) == ("answer", "BYTES")
        assert [json.loads(text) for text in output["data"]] == expected
        if name == "BertForMaskedLM":
            assert post(daemon, V1, {"instances": ["no mask"]}).status == 400
        if name == "BertModel":  # which has been tried before the fork
            assert_threads_predict(daemon)
        if task:
            assert "candidate_labels" in post(daemon, V1, {"instances": texts}).text


def test_questions(tmp_path: Path) -> None:
    save(tmp_path, lambda: bert("BertForQuestionAnswering"))
    known = transformers.pipelines.PIPELINE_REGISTRY.get_supported_tasks()
    if "question-answering" not in known:  # since transformers 5
        assert unloadable(tmp_path).endswith("has no pipeline for question-answering")
        return
    model = load(tmp_path)
    asked = {"question": "the cat", "context": "the cat sat on a mat"}
    assert answer(model, asked)[0]["answer"] in asked["context"]
    for changed in ({"question": ""}, {"context": ""}, {"question": "the " * 100}):
        assert "not one that this task takes" in refusal(model, asked | changed)


def test_empty_texts(tmp_path: Path) -> None:
    """The tokenizer gives no tokens for them; others begin and end every text with special ones."""
    save(tmp_path / "bert", lambda: bert("BertForSequenceClassification"))
    save(tmp_path / "gpt2", gpt2)
    for name in ("bert", "gpt2"):
        assert refusal(load(tmp_path / name), "a", "") == "A text is empty"


def test_texts_that_are_too_long_for_the_model(tmp_path: Path) -> None:
    """Not every tokenizer was saved with the length that its model takes."""
    save(tmp_path, lambda: bert("BertForSequenceClassification"))
    change(tmp_path / "tokenizer_config.json", "model_max_length")
    model = load(tmp_path)
    assert answer(model, "the cat " * 100) == answer(model, "the cat " * 16)
    roberta = {**BERT, "max_position_embeddings": 32 + 1, "pad_token_id": 0}
    save(
        tmp_path / "roberta",
        lambda: transformers.RobertaForTokenClassification(transformers.RobertaConfig(**roberta)),
    )
    change(tmp_path / "roberta" / "tokenizer_config.json", "model_max_length")
    assert len(answer(load(tmp_path / "roberta"), "the cat " * 100)[0]) == 32


def test_numbers_that_the_library_does_not_check(tmp_path: Path) -> None:
    save(tmp_path / "mask", lambda: bert("BertForMaskedLM"))
    model = load(tmp_path / "mask")
    assert refusal(model, "[MASK]", top_k=0) == "top_k must be 1 or more"
    assert refusal(model, "[MASK]", top_k=1000) == "One of top_k is not as it must be"
    save(tmp_path / "gpt2", gpt2)
    assert refusal(load(tmp_path / "gpt2"), "a", num_beams=0) == "num_beams must be 1 or more"


def test_as_many_tokens_as_the_decoder_has_places_for(tmp_path: Path) -> None:
    save(tmp_path, bart)
    model = load(tmp_path)
    assert len(answer(model, "the cat")[0].split()) <= 32
    assert "longer than 32 tokens" in refusal(model, "the cat", max_new_tokens=33)
    change(tmp_path / "generation_config.json", max_length=6, eos_token_id=None)
    assert len(answer(load(tmp_path), "the cat")[0].split()) <= 5


def test_a_tokenizer_without_padding(tmp_path: Path) -> None:
    save(tmp_path, gpt2)
    save_tokenizer(tmp_path, unk_token="[UNK]")
    assert len(answer(load(tmp_path), "the", "the cat", max_new_tokens=2)) == 2


def refused(path: Path, **env: str) -> str:
    status, output = run_daemon_expecting_exit(["--model_dir", str(path)], env, timeout_s=READY_S)
    assert status == 1, output
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("pyfuncserver: ")]
    prefix = f"pyfuncserver: the model {path} cannot be loaded: "
    assert line.startswith(prefix)
    return line.removeprefix(prefix)


def test_models_that_are_not_served(tmp_path: Path) -> None:
    save(tmp_path, lambda: bert("BertForNextSentencePrediction"))
    said = refused(tmp_path)
    assert said.startswith(
        "its task is not one that is served (BertForNextSentencePrediction): those are text-class"
    )
    assert "(MODEL_TASK)" in refused(tmp_path, MODEL_TASK="object-detection")
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "bert"}')
    assert (
        refused(tmp_path) == "its config.json names no architectures: name its task by --model_task"
    )


def test_files_that_are_torn_or_missing(tmp_path: Path) -> None:
    save(tmp_path, lambda: bert("BertForMaskedLM"))
    weights, whole = tmp_path / "model.safetensors", (tmp_path / "model.safetensors").read_bytes()
    for torn in (b"torn", whole[:-100]):
        weights.write_bytes(torn)
        assert unloadable(tmp_path).startswith("it cannot be read by transformers: ")
    weights.unlink()
    assert "no file named" in unloadable(tmp_path)
    weights.write_bytes(whole)
    change(tmp_path / "config.json", hidden_size=32)
    assert "config.json has other sizes than its weights: bert.embeddings." in unloadable(tmp_path)
    change(tmp_path / "config.json", hidden_size=16)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    assert unloadable(tmp_path).startswith("its tokenizer cannot be read: ")


def test_weights_that_the_task_needs(tmp_path: Path) -> None:
    """What is missing the library would make up at random."""
    save(tmp_path, lambda: bert("BertForMaskedLM"))
    said = refused(tmp_path, MODEL_TASK="text-classification")
    assert said.startswith("its weights lack ")
    assert "classifier.bias, classifier.weight, which text-classification needs" in said
    assert len(answer(load(tmp_path, "feature-extraction"), "the cat")[0][0]) == 2


def test_an_architecture_that_takes_more_than_a_text(tmp_path: Path) -> None:
    save(tmp_path, lambda: transformers.T5Model(t5().config))
    assert unloadable(tmp_path).startswith("its architecture does not take a text alone: ")


def test_code_of_the_model_is_not_run(tmp_path: Path) -> None:
    """A configuration may name classes beside it, or in another repository."""
    save(tmp_path, lambda: bert("BertForMaskedLM"))
    auto = {"AutoConfig": "own.Config", "AutoModelForMaskedLM": "own.Model"}
    change(tmp_path / "config.json", model_type="of_its_own", auto_map=auto)
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert refused(tmp_path) == "it needs code of its own, which this server does not run"
    assert not (tmp_path / "ran").exists()


def test_weights_in_a_pickle_run_no_code(tmp_path: Path) -> None:
    save(tmp_path, lambda: bert("BertForMaskedLM"))
    (tmp_path / "model.safetensors").unlink()
    torch.save({"weights": Bomb(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    assert unloadable(tmp_path).startswith("it cannot be read by transformers: ")
    assert not (tmp_path / "ran").exists()


class Bomb:
    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> Any:
        return open, (self._path, "w")
