"""A model whose configs cannot be loaded: Prepare names the file, the field and the value."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.reasons import Reason
from sftjob_contract.run.method import Distillation, Method, Teacher
from sftjob_trainer.models.config_check import check_config
from sftjob_trainer.process.errors import StageError
from support.trainer.preparing import Workbench

INSTEAD = "; correct the file, or name another model"


@pytest.fixture
def copied(model_without_weights: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_without_weights, tmp_path / "model"))


def edit(model: Path, file: str = "config.json", **changes: Any) -> Path:
    path = model / file
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.is_file() else {}), **changes}))
    return model


def refusal(model: Path, **options: Any) -> str:
    with pytest.raises(StageError) as raised:
        check_config(model, trust_remote_code=False, **options)
    assert raised.value.reason is Reason.CONFIG_INVALID
    return raised.value.message


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("quantization_config", "bnb", 'must be an object, not "bnb"'),
        ("quantization_config", 4, "must be an object, not a number"),
        ("quantization_config", ["bnb"], "must be an object, not a list"),
        ("compression_config", True, "must be an object, not true or false"),
        ("text_config", "llama", 'must be an object, not "llama"'),
        ("auto_map", "modeling.py", 'must be an object, not "modeling.py"'),
        ("architectures", "Qwen2ForCausalLM", 'must be a list of names, not "Qwen2ForCausalLM"'),
        ("architectures", [7], "must be a list of names, not a list"),
        ("model_type", 7, "must be text, not a number"),
        ("dtype", "text", 'must be the name of a dtype such as bfloat16, not "text"'),
        ("torch_dtype", ["bfloat16"], "must be the name of a dtype such as bfloat16, not a list"),
        ("hidden_size", -3, "must be above 0, not -3"),
        ("num_attention_heads", 0, "must be above 0, not 0"),
    ],
)
def test_a_field_that_the_libraries_fail_on_later_is_named(copied: Path, field: str, value: Any, sentence: str) -> None:
    assert refusal(edit(copied, **{field: value})) == f"the model's config.json: {field} {sentence}{INSTEAD}"


def test_a_field_of_the_text_part_is_named_by_its_path(copied: Path) -> None:
    edit(copied, text_config={"vocab_size": 0})
    assert refusal(copied) == f"the model's config.json: text_config.vocab_size must be above 0, not 0{INSTEAD}"


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("vocab_size", "512", "expected int, got str (value: '512')"),
        ("max_position_embeddings", None, "expected int, got NoneType (value: None)"),
        ("hidden_size", 32.5, "expected int, got float (value: 32.5)"),
        ("tie_word_embeddings", "yes", "expected bool, got str (value: 'yes')"),
        ("eos_token_id", "<s>", "with value '<s>' doesn't match any type in (int, list[int], NoneType)"),
    ],
)
def test_a_field_that_transformers_refuses_is_named_in_its_words(
    copied: Path, field: str, value: Any, found: str
) -> None:
    assert refusal(edit(copied, **{field: value})) == f"the model's config.json: Field '{field}' {found}{INSTEAD}"


def test_what_transformers_says_of_several_fields_and_of_the_type_is_told(copied: Path) -> None:
    assert refusal(edit(copied, num_hidden_layers=7)).startswith(
        "the model's config.json: `num_hidden_layers` (7) must be equal to the number of `layer_types` (2)"
    )
    assert refusal(edit(copied, model_type="made-up")).startswith(
        "the model's config.json: The checkpoint you are trying to load has model type `made-up` but"
    )
    edit(copied, auto_map={"AutoConfig": "configuration_made_up.MadeUp"})
    assert refusal(copied, label="the teacher") == (
        "the teacher's config.json: it comes with code; read that code, then set model.trustRemoteCode: true"
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[1]", "must be an object, not a list"),
        ('{"max_new_tokens": "many"}', "'<=' not supported between instances of"),
    ],
)
def test_a_generation_config_that_a_model_could_not_be_loaded_with_is_named(
    copied: Path, content: str, problem: str
) -> None:
    (copied / "generation_config.json").write_text(content)
    assert refusal(copied).startswith(f"the model's generation_config.json: {problem}")


@pytest.mark.parametrize(
    "changes",
    [
        {"quantization_config": None, "architectures": None, "text_config": None},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"torch_dtype": "bfloat16", "something_of_its_own": ["a", 1]},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    ],
)
def test_what_can_be_loaded_is_not_refused(copied: Path, changes: dict[str, Any]) -> None:
    check_config(edit(copied, **changes), trust_remote_code=False)


def test_prepare_checks_the_model_and_the_teacher_before_it_reads_data(bench: Workbench, copied: Path) -> None:
    edit(copied, quantization_config="bnb")
    config = bench.config("not-there.jsonl")
    with pytest.raises(StageError, match=r"the model's config\.json: quantization_config"):
        bench.run(replace(config, model=replace(config.model, source=str(copied))))
    teacher = Distillation(teacher=Teacher(source=str(copied), revision=None), temperature=2.0, alpha=0.5)
    with pytest.raises(StageError, match=r"the teacher's config\.json: quantization_config"):
        bench.run(replace(config, method=Method(lora=None, quantization=None, distillation=teacher)))


@pytest.mark.parametrize("tokens", [-3, [True, -1], "x"])
def test_stop_tokens_that_are_none_are_passed_over(bench: Workbench, copied: Path, tokens: Any) -> None:
    edit(copied, "generation_config.json", eos_token_id=tokens)
    assert bench.prepare(bench.write("d.jsonl", [{"text": "a b"}] * 8), model=str(copied)).train_rows


def test_a_longest_length_of_the_tokenizer_that_is_no_number_is_named(bench: Workbench, copied: Path) -> None:
    edit(copied, "tokenizer_config.json", model_max_length="long")
    with pytest.raises(StageError, match=r"model_max_length in its tokenizer_config\.json must be a number, not text"):
        bench.prepare(bench.write("d.jsonl", [{"text": "a b"}] * 8), model=str(copied))


def test_checking_does_not_load_pytorch(copied: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from sftjob_trainer.models.config_check import check_config\n"
        "from sftjob_trainer.process.libraries import import_transformers_without_torch\n"
        "import_transformers_without_torch()\n"
        "check_config(Path(sys.argv[1]), trust_remote_code=False)\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", program, str(edit(copied, "generation_config.json", eos_token_id=2))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
