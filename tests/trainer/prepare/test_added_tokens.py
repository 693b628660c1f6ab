"""Added tokens in Prepare: what becomes of the tokenizer, the plan and the data, and what is refused."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.reports.model_shape import UnfrozenShape
from sftjob_contract.run.config import RunConfig
from sftjob_contract.run.method import Distillation, Method, Teacher
from sftjob_trainer.models.shape import read_model_shape, with_new_tokens
from sftjob_trainer.preflight.meta_model import find_refusal
from sftjob_trainer.preflight.run_config import problems
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.tokens.tokenizer import load_tokenizer, new_tokens
from support.trainer.added_tokens import END, FIRST_ID, NOTE, TOOL, adding
from support.trainer.preparing import Workbench
from support.trainer.tiny import VOCABULARY, lora, run_config
from support.trainer.training import PEFT_IS_BEHIND

pytestmark = PEFT_IS_BEHIND

FULL = Method(lora=None, quantization=None, distillation=None)
KNOWN = "<|im_start|>"


def config_of(model: Path, plain: tuple[str, ...] = (NOTE,), **options: Any) -> RunConfig:
    return adding(run_config(model=str(model), dataset="/data", **options), plain)


def test_tokens_that_the_tokenizer_has_are_taken_as_they_are(
    qwen2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`return` is an ordinary piece: as an added token it would cut words that have one with a blank before it."""
    bench = Workbench(tmp_path, qwen2)
    config = bench.config(bench.write("rows.jsonl", [{"text": f"{KNOWN} we return first"}] * 2), method=lora())
    bench.run(config)
    before = bench.sequences()
    caplog.set_level(logging.INFO)

    stats = bench.run(adding(config, ("return",), (KNOWN,)))

    assert bench.sequences() == before
    assert stats.embedding_rows is None
    assert stats.model_shape is not None
    assert stats.model_shape.new_token_matrices == 0
    assert f"already in the tokenizer, and unchanged: return, {KNOWN}" in caplog.text


def test_an_embedding_that_has_rows_for_the_tokens_stays_as_large(
    qwen2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = Workbench(tmp_path, qwen2)
    data = bench.write("rows.jsonl", [{"text": f"a {TOOL} b"}] * 2)

    stats = bench.run(adding(bench.config(data, method=lora())))

    assert stats.embedding_rows is None
    assert stats.model_shape is not None
    assert (stats.model_shape.vocabulary_size, stats.model_shape.new_token_matrices) == (VOCABULARY, 1)
    assert all(row["input_ids"].count(FIRST_ID + 1) == 1 for row in bench.sequences())
    assert f"added to the tokenizer: {NOTE} (id 411), {TOOL} (id 412), {END} (id 413)" in caplog.text
    assert "the embedding has 512 rows, and is trained" in caplog.text


@pytest.mark.parametrize("base", ["tied", "untied"])
def test_the_plan_counts_the_embedding_as_it_will_be(base: str, request: pytest.FixtureRequest) -> None:
    from transformers import AutoModelForCausalLM

    directory: Path = request.getfixturevalue(base)
    shape = read_model_shape(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    model.resize_token_embeddings(FIRST_ID + 3)
    assert shape is not None

    grown = with_new_tokens(shape, FIRST_ID + 3, "model.embed_tokens")

    assert grown.parameters == model.num_parameters() > shape.parameters
    assert grown.vocabulary_size == model.config.vocab_size
    assert grown.new_token_matrices == (1 if base == "tied" else 2)
    part = UnfrozenShape(rows=FIRST_ID, columns=32, count=1, is_embedding=True)
    assert with_new_tokens(replace(shape, unfrozen=(part,)), FIRST_ID + 3, "").unfrozen == (
        replace(part, rows=FIRST_ID + 3),
    )
    assert with_new_tokens(shape, None, "transformer.wte") == replace(shape, new_token_matrices=2)


@pytest.mark.parametrize("token", ["\u200d\u2603", "<a><b>", "1", "\u00e9", "a.b", "</s>", "[UNUSED_1]"])
@pytest.mark.parametrize("special", [True, False])
def test_any_text_without_white_space_becomes_one_id(qwen2: Path, token: str, *, special: bool) -> None:
    model = config_of(qwen2).model
    model = replace(
        model, added_tokens=None if special else (token,), added_special_tokens=(token,) if special else None
    )
    new, tokenizer = new_tokens(qwen2, model), load_tokenizer(qwen2, model)

    assert tokenizer.convert_ids_to_tokens(list(new.values())) == list(new)
    for number in new.values():
        assert tokenizer(f"x{token}y {token}")["input_ids"].count(number) == 2


@pytest.mark.parametrize(
    ("plain", "special", "problem"),
    [
        (("two words",), (), "model.addedTokens: 'two words' must be a token without white space, such as <|tool|>"),
        ((), ("a\u00a0b",), "model.addedSpecialTokens: 'a\\xa0b' must be a token without white space"),
        (("",), (), "model.addedTokens: '' must be a token without white space"),
        (("<a>", "<a>"), (), "model.addedTokens: '<a>' is in model.addedTokens already; remove it from one of them"),
        (("<a>",), ("<a>",), "model.addedSpecialTokens: '<a>' is in model.addedTokens already; remove it from one"),
    ],
)
def test_what_is_no_token_is_told_at_once(plain: tuple[str, ...], special: tuple[str, ...], problem: str) -> None:
    (found,) = problems(adding(run_config(model="/m", dataset="/d"), plain, special))

    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("base", "method", "problem"),
    [
        (
            "untied",
            lora(target_modules=("q_proj", "embed_tokens")),
            "method.lora.targetModules: embed_tokens has the rows of added tokens, which are new to the model and are ",
        ),
        (
            "untied",
            lora(extra={"trainable_token_indices": {"embed_tokens": [FIRST_ID]}}),
            "method.lora.extra.trainable_token_indices: the added tokens have the ids 411, 412, 413; add them, or ",
        ),
        (
            "tied",
            lora(extra={"trainable_token_indices": [FIRST_ID, FIRST_ID + 1, FIRST_ID + 2]}),
            "method.lora.extra.trainable_token_indices: [411, 412, 413]: the model's output head is its embedding",
        ),
        (
            "untied",
            replace(FULL, unfrozen_parameters=("model.layers", "lm_head")),
            "method.full.unfrozenParameters: model.embed_tokens has the rows of added tokens, which are new to the ",
        ),
    ],
)
def test_methods_that_would_not_train_new_rows_are_refused_before_a_gpu_is_held(
    base: str, method: Method, problem: str, request: pytest.FixtureRequest
) -> None:
    directory: Path = request.getfixturevalue(base)
    config = config_of(directory, method=method)

    found = find_refusal(config, directory)

    assert found is not None
    assert found.startswith(problem)


@pytest.mark.parametrize("base", ["tied", "untied"])
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(FULL, id="full"),
        pytest.param(lora(), id="LoRA"),
        pytest.param(lora(dora=True, modules_to_save=("embed_tokens", "lm_head")), id="both named"),
        pytest.param(lora(modules_to_save=("model.embed_tokens",)), id="one named"),
        pytest.param(replace(FULL, unfrozen_parameters=("model.embed_tokens|lm_head",)), id="embeddings alone"),
    ],
)
def test_the_libraries_take_what_trains_new_rows(base: str, method: Method, request: pytest.FixtureRequest) -> None:
    directory: Path = request.getfixturevalue(base)

    assert find_refusal(config_of(directory, method=method), directory) is None


def test_single_rows_may_be_trained_where_the_head_is_another_matrix(untied: Path) -> None:
    ids = [FIRST_ID, FIRST_ID + 1, FIRST_ID + 2]

    assert find_refusal(config_of(untied, method=lora(extra={"trainable_token_indices": ids})), untied) is None


def test_a_teacher_would_have_to_know_the_tokens(tied: Path, tmp_path: Path) -> None:
    taught = Distillation(teacher=Teacher(source=str(tied), revision=None), temperature=1.0, alpha=0.5)
    bench = Workbench(tmp_path, tied)
    config = bench.config(bench.write("rows.jsonl", [{"text": "a"}] * 2), method=replace(FULL, distillation=taught))

    with pytest.raises(
        StageError, match=f"method.distillation: {NOTE} is new to the model, and a teacher has no such "
    ):
        bench.run(adding(config))
