"""Added tokens: one id each in the data, rows that are trained, and outputs that have them wherever they are loaded."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.run.config import Metric, ModelDtype, Precision, RunConfig
from sftjob_contract.run.method import ComputeDtype, Method, Quantization, QuantizationType
from sftjob_trainer.models.added_tokens import resize_embedding, with_embeddings
from sftjob_trainer.models.lora import lora_config
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.training.starting_point import initial_paths
from support.trainer.added_tokens import END, FIRST_ID, NOTE, TOOL, adding
from support.trainer.preparing import Workbench
from support.trainer.processes import prepare_for_two, train_in_two
from support.trainer.quantized import write_bitsandbytes
from support.trainer.tiny import VOCABULARY, held_out_fraction, lora
from support.trainer.training import PEFT_IS_BEHIND, as_died_after, environment, finish, job, run_train
from support.trainer.training import Finished as Run
from support.trainer.weights import assert_same_weights

pytestmark = [PEFT_IS_BEHIND, pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*:UserWarning")]

ROWS = FIRST_ID + 3
NEW = {NOTE: FIRST_ID, TOOL: FIRST_ID + 1, END: FIRST_ID + 2}
NF4 = Quantization(bits=4, type=QuantizationType.NF4, double_quantization=True, compute_dtype=ComputeDtype.FLOAT32)
ROWS_OF_DATA = [{"prompt": f"{TOOL}the item {number}", "completion": f"{END} {NOTE} a word"} for number in range(10)]
IDS = torch.tensor([[5, NEW[TOOL], 7, NEW[END], NEW[NOTE], 9]])


def prepared_and_trained(
    root: Path, model: Path, method: Method, *, merge: bool = True, dtype: ModelDtype = ModelDtype.AUTO, **options: Any
) -> Run:
    bench = Workbench(root, model)
    data = bench.write("train.jsonl", ROWS_OF_DATA)
    usual = {"max_steps": 4, "learning_rate": 1e-2, "warmup_ratio": 0.0}
    config = adding(bench.config(data, method=method, **{**usual, **options}))
    config = replace(config, model=replace(config.model, dtype=dtype))
    every = replace(config.checkpoints, every_steps=2, per_epoch=None)
    config = replace(config, checkpoints=every, output=replace(config.output, merge_adapter=merge))
    evaluation = replace(config.evaluation, metrics=(Metric.EXACT_MATCH,), max_new_tokens=3)
    held_out = replace(config.dataset, evaluation=held_out_fraction(0.2))
    config = replace(config, evaluation=evaluation, dataset=held_out)
    stats = bench.run(config)
    return Run(bench.volume, config, stats, run_train(bench.volume, config))


@pytest.fixture(scope="module")
def whole(tied: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    every_weight = Method(lora=None, quantization=None, distillation=None)
    return prepared_and_trained(tmp_path_factory.mktemp("whole"), tied, every_weight, merge=False)


@pytest.fixture(scope="module")
def adapter(untied: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return prepared_and_trained(tmp_path_factory.mktemp("adapter"), untied, lora(), precision=Precision.BF16)


@pytest.fixture(scope="module")
def tied_adapter(tied: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """In fp32 beside frozen weights of 16 bits."""
    root, options = tmp_path_factory.mktemp("tied_adapter"), {"precision": Precision.FP32}
    return prepared_and_trained(root, tied, lora(dora=True), dtype=ModelDtype.BFLOAT16, **options)


@pytest.fixture(scope="module")
def quantized(untied: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """In bf16, and evaluated on answers."""
    method = lora(quantization=replace(NF4, compute_dtype=ComputeDtype.BFLOAT16))
    return prepared_and_trained(tmp_path_factory.mktemp("quantized"), untied, method, precision=Precision.BF16)


EVERY = pytest.mark.parametrize("run", ["whole", "adapter", "tied_adapter", "quantized"])
ADAPTERS = pytest.mark.parametrize("run", ["adapter", "tied_adapter", "quantized"])


def of(name: str, request: pytest.FixtureRequest) -> Run:
    run: Run = request.getfixturevalue(name)
    assert run.outcome.exit_code is ExitCode.DONE, run.outcome.message
    return run


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits
    return found


def loaded(run: Run, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model that the code of the adapter's card loads."""
    directory = run.volume / layout.OUTPUT_ADAPTER
    monkeypatch.chdir(directory)
    (code,) = re.findall(r"```python\n(.*?)```", (directory / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    made: dict[str, Any] = {}
    exec(code, made)
    assert made["tokenizer"].convert_tokens_to_ids(list(NEW)) == list(NEW.values())
    return made["model"]


@EVERY
def test_each_added_token_is_one_id_in_the_data(run: str, request: pytest.FixtureRequest) -> None:
    from datasets import load_from_disk

    found = of(run, request)
    rows = load_from_disk(found.volume / layout.PREPARED_TRAIN).to_list()

    assert len(rows) == len(ROWS_OF_DATA) - 2
    assert all(row["input_ids"].count(number) == 1 for row in rows for number in NEW.values())
    assert found.stats.embedding_rows == ROWS


@pytest.mark.parametrize(
    ("run", "path"),
    [
        ("whole", layout.OUTPUT_MODEL),
        ("adapter", layout.OUTPUT_MERGED),
        ("tied_adapter", layout.OUTPUT_MERGED),
        ("quantized", layout.OUTPUT_MERGED),
    ],
)
def test_a_whole_output_has_the_rows_in_weights_and_config_and_the_tokens_in_its_tokenizer(
    run: str, path: str, request: pytest.FixtureRequest
) -> None:
    directory = of(run, request).volume / path
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    settings = json.loads((directory / "config.json").read_bytes())

    assert settings["vocab_size"] == len(model.get_input_embeddings().weight) == ROWS
    assert len(model.get_output_embeddings().weight) == ROWS
    assert settings["tie_word_embeddings"] is (run in ("whole", "tied_adapter"))
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.convert_tokens_to_ids(list(NEW)) == list(NEW.values())
    assert {TOOL, END} < set(tokenizer.all_special_tokens)
    assert NOTE not in tokenizer.all_special_tokens
    assert tokenizer.decode(tokenizer(f"a{TOOL}b{NOTE}c")["input_ids"], skip_special_tokens=True) == f"ab{NOTE}c"


@ADAPTERS
def test_the_code_of_the_adapters_card_loads_what_was_merged(
    run: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = of(run, request)
    merged = AutoModelForCausalLM.from_pretrained(found.volume / layout.OUTPUT_MERGED)

    assert torch.allclose(logits(loaded(found, monkeypatch)), logits(merged), atol=1e-4)


@ADAPTERS
def test_an_adapter_has_the_trained_rows_and_no_copy_of_the_frozen_ones(
    run: str, request: pytest.FixtureRequest
) -> None:
    found = of(run, request)
    tensors = load_file(found.volume / layout.OUTPUT_ADAPTER / "adapter_model.safetensors")
    rows = {name: weights for name, weights in tensors.items() if ".lora_" not in name}
    settings = json.loads((found.volume / layout.OUTPUT_ADAPTER / "adapter_config.json").read_bytes())

    assert {name.removeprefix("base_model.model.") for name in rows} == {
        "model.embed_tokens.weight",
        "lm_head.weight",
    }
    assert {len(weights) for weights in rows.values()} == {ROWS}
    assert bool(settings["ensure_weight_tying"]) is (run == "tied_adapter")


@EVERY
def test_the_new_rows_are_trained(run: str, request: pytest.FixtureRequest) -> None:
    found = of(run, request)
    one, other = (checkpoint_rows(found.volume, step) for step in (2, 4))

    for number in NEW.values():
        assert not torch.equal(one[number], other[number])


def checkpoint_rows(volume: Path, step: int) -> torch.Tensor:
    directory = volume / layout.CHECKPOINTS / layout.checkpoint_name(step)
    tensors = load_file(next(directory.glob("*model.safetensors")))
    (rows,) = (weights for name, weights in tensors.items() if "embed_tokens" in name)
    return rows


@EVERY
def test_a_resumed_run_ends_with_the_same_weights(run: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    found = of(run, request)
    volume = as_died_after(2, found, tmp_path / "died")

    outcome = run_train(volume, found.config, attempt=2)

    assert outcome.exit_code is ExitCode.DONE, outcome.message
    path = layout.OUTPUT_MODEL if run == "whole" else layout.OUTPUT_ADAPTER
    (weights,) = (found.volume / path).glob("*.safetensors")
    assert_same_weights(weights, volume / path / weights.name)


def test_new_rows_are_the_same_in_every_process_and_disturb_no_random_numbers(untied: Path) -> None:
    models = [AutoModelForCausalLM.from_pretrained(untied) for _ in range(2)]
    for number, model in enumerate(models):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        resize_embedding(model, ROWS, seed=42)
        assert torch.equal(torch.get_rng_state(), before)

    for part in ("get_input_embeddings", "get_output_embeddings"):
        one, other = (getattr(model, part)().weight for model in models)
        assert torch.equal(one, other)
        assert torch.allclose(one[FIRST_ID:], one[:FIRST_ID].mean(0).expand(3, -1), atol=1e-3)


@pytest.mark.slow
def test_two_processes_train_what_one_does(untied: Path, tmp_path: Path) -> None:
    usual: dict[str, Any] = {"method": lora(), "max_steps": 2, "learning_rate": 1e-2}
    single = finish(tmp_path / "one", adding(job(untied, per_device_batch_size=4, **usual)))
    config = adding(job(untied, per_device_batch_size=2, **usual))
    volume = tmp_path / "two"
    prepare_for_two(volume, config)

    ended = train_in_two(tmp_path / "pod", volume, config)

    assert ended.code == ExitCode.DONE, ended.err
    weights = Path(layout.OUTPUT_ADAPTER, "adapter_model.safetensors")
    assert len(load_file(volume / weights)["base_model.model.lm_head.weight"]) == ROWS
    assert_same_weights(single.volume / weights, volume / weights, atol=1e-5)


@pytest.mark.parametrize(
    "method", [Method(lora=None, quantization=None, distillation=None), lora()], ids=["full", "LoRA"]
)
def test_a_base_with_rows_to_spare_keeps_them(qwen2: Path, method: Method, tmp_path: Path) -> None:
    run = prepared_and_trained(tmp_path, qwen2, method, merge=method.lora is not None, max_steps=2)
    assert run.outcome.exit_code is ExitCode.DONE, run.outcome.message
    directory = run.volume / (layout.OUTPUT_MODEL if method.lora is None else layout.OUTPUT_MERGED)

    assert json.loads((directory / "config.json").read_bytes())["vocab_size"] == VOCABULARY
    assert AutoTokenizer.from_pretrained(directory).convert_tokens_to_ids(list(NEW)) == list(NEW.values())
    assert not torch.equal(rows_of(directory)[FIRST_ID:ROWS], rows_of(qwen2)[FIRST_ID:ROWS])
    if method.lora is not None:
        assert "resize" not in (run.volume / layout.OUTPUT_ADAPTER / "README.md").read_text(encoding="utf-8")


def rows_of(directory: Path) -> torch.Tensor:
    rows: torch.Tensor = load_file(directory / "model.safetensors")["model.embed_tokens.weight"]
    return rows


@pytest.mark.parametrize(
    ("plain", "special", "differing"),
    [
        ((NOTE,), (TOOL,), "has 414 tokens and that of this run 413, of which 1 differ, such as '<|end_tool|>'"),
        ((NOTE, "<b>"), (TOOL, END), "has 414 tokens and that of this run 415, of which 3 differ, such as '<b>'"),
        ((NOTE,), (END, TOOL), "has 414 tokens and that of this run 414, of which 2 differ, such as '<|end_tool|>'"),
        ((), (), "has 414 tokens and that of this run 411, of which 3 differ, such as '#note'"),
    ],
    ids=["fewer", "more", "another order", "none"],
)
@pytest.mark.parametrize("run", ["whole", "tied_adapter"])
def test_a_checkpoint_of_other_tokens_is_refused(
    run: str,
    plain: tuple[str, ...],
    special: tuple[str, ...],
    differing: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    found = of(run, request)
    config = starting_from(found, adding(found.config, plain, special))

    with pytest.raises(StageError) as refused:
        initial_paths(config, environment(tmp_path), found.stats)

    start = (
        f"checkpoints.resumeFrom: {config.checkpoints.resume_from}: its tokenizer {differing}; write model.addedTokens"
    )
    assert refused.value.message.startswith(start)


def starting_from(found: Run, config: RunConfig) -> RunConfig:
    source = str(found.volume / layout.CHECKPOINTS / layout.checkpoint_name(4))
    return replace(config, checkpoints=replace(config.checkpoints, resume_from=source))


@pytest.mark.parametrize("run", ["whole", "tied_adapter"])
def test_a_run_of_the_same_tokens_starts_from_a_checkpoint(
    run: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    found = of(run, request)
    volume = as_died_after(0, found, tmp_path / "volume")

    outcome = run_train(volume, starting_from(found, found.config))

    assert outcome.exit_code is ExitCode.DONE, outcome.message
    assert outcome.output is not None
    assert found.outcome.output is not None
    metrics, before = outcome.output.metrics, found.outcome.output.metrics
    assert metrics["initialEvalLoss"] == pytest.approx(before["evalLoss"], abs=1e-5)


def test_qlora_on_a_base_of_bitsandbytes_trains_new_rows(untied: Path, tmp_path: Path) -> None:
    base = write_bitsandbytes(tmp_path / "nf4", untied)

    run = prepared_and_trained(tmp_path / "run", base, lora(quantization=NF4), merge=False, max_steps=2)

    assert run.outcome.exit_code is ExitCode.DONE, run.outcome.message
    tensors = load_file(run.volume / layout.OUTPUT_ADAPTER / "adapter_model.safetensors")
    assert len(tensors["base_model.model.model.embed_tokens.weight"]) == ROWS


ADAPTED = lora().lora
SMALL = {"num_attention_heads": 4, "vocab_size": 96, "pad_token_id": 0}
SIZES = {**SMALL, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("kind", "settings", "trained"),
    [
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 96}, {"wte", "lm_head"}),
        ("gpt_neox", SIZES, {"embed_in", "lm_head"}),
        ("gemma", {**SIZES, "num_key_value_heads": 1, "head_dim": 16}, {"embed_tokens"}),
        ("phi", {**SIZES, "tie_word_embeddings": False}, {"embed_tokens", "lm_head"}),
        ("opt", {**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32}, {"embed_tokens"}),
        ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 96}, {"word_embeddings", "lm_head"}),
    ],
)
@pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning")
def test_embedding_and_head_are_trained_and_loaded_again_whatever_their_names(
    kind: str, settings: dict[str, Any], trained: set[str], tmp_path: Path
) -> None:
    from peft import PeftModel, get_peft_model

    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    base.save_pretrained(tmp_path / "base")
    resize_embedding(base, 98, seed=1)
    adapted = get_peft_model(base, lora_config(with_embeddings(ADAPTED, base, [96, 97])))
    ids = torch.tensor([[3, 96, 4, 97]])
    optimizer = torch.optim.SGD([weights for weights in adapted.parameters() if weights.requires_grad], lr=0.1)
    adapted(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    names = {name for name, weights in adapted.named_parameters() if weights.requires_grad and "lora_" not in name}
    adapted.peft_config["default"].base_model_name_or_path = ""
    adapted.save_pretrained(tmp_path / "adapter")

    again = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    again.resize_token_embeddings(98, mean_resizing=False)
    loaded = PeftModel.from_pretrained(again, str(tmp_path / "adapter"))

    assert {name.partition(".modules_to_save")[0].rpartition(".")[2] for name in names} == trained
    with torch.no_grad():
        assert torch.allclose(loaded.eval()(input_ids=ids).logits, adapted.eval()(input_ids=ids).logits, atol=1e-6)
