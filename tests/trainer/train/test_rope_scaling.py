"""RoPE scaling: training, its output and the code of the card compute with as many positions as the job asks for."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.run.method import ComputeDtype, Distillation, Method, Quantization, QuantizationType, Teacher
from sftjob_contract.run.rope import RopeScaling, RopeType
from sftjob_trainer.models.limits import read_limits
from sftjob_trainer.models.rope import check_scaling, scale
from sftjob_trainer.output.model_card import CardContent, model_card
from sftjob_trainer.preflight.meta_model import find_refusal
from sftjob_trainer.preflight.run_config import problems
from sftjob_trainer.process.errors import StageError
from support.trainer.preparing import Workbench
from support.trainer.rope import scaled, scaling
from support.trainer.tiny import POSITIONS, lora, run_config, write_tokenizer
from support.trainer.training import PEFT_IS_BEHIND, Finished, as_died_after, finish, job, run_train

pytestmark = PEFT_IS_BEHIND


NF4 = Quantization(bits=4, type=QuantizationType.NF4, double_quantization=True, compute_dtype=ComputeDtype.FLOAT32)
YARN = {"rope_theta": 10000.0, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": POSITIONS}
IDS = torch.arange(3, 90)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits
    return found


@pytest.fixture(scope="module")
def adapter(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A LoRA whose base is scaled four times, and the merged model."""
    config = scaled(job(qwen2, method=lora(), max_steps=4, save_every=2, learning_rate=1e-2), scaling())
    config = replace(config, output=replace(config.output, merge_adapter=True))
    return finish(tmp_path_factory.mktemp("adapter"), config)


@pytest.fixture(scope="module")
def reference(adapter: Finished, qwen2: Path) -> torch.Tensor:
    """Logits of the adapter on a base that transformers scales by its own arguments."""
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(qwen2, rope_parameters=YARN, max_position_embeddings=4 * POSITIONS)
    return logits(PeftModel.from_pretrained(base, str(adapter.volume / layout.OUTPUT_ADAPTER)))


def test_the_trained_model_is_the_scaled_one(adapter: Finished, qwen2: Path) -> None:
    from datasets import load_from_disk

    assert adapter.outcome.exit_code is ExitCode.DONE, adapter.outcome.message
    assert adapter.outcome.output is not None
    rows = load_from_disk(adapter.volume / layout.PREPARED_EVALUATION).to_list()
    first = adapter.outcome.output.metrics["initialEvalLoss"]

    assert first == pytest.approx(loss_of(rows, qwen2, rope_parameters=YARN), abs=1e-5)
    assert first != pytest.approx(loss_of(rows, qwen2), abs=1e-5)


def loss_of(rows: list[dict[str, list[int]]], directory: Path, **options: Any) -> float:
    model = AutoModelForCausalLM.from_pretrained(directory, **options).eval()
    total, tokens = 0.0, 0
    for row in rows:
        labels = torch.tensor([row["labels"]])
        count = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            total += float(model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).loss) * count
        tokens += count
    return total / tokens


@pytest.fixture
def beside(adapter: Finished, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the adapter, as the place from which its card's code runs."""
    directory = adapter.volume / layout.OUTPUT_ADAPTER
    monkeypatch.chdir(directory)
    return directory


def test_the_code_of_the_adapters_card_loads_what_was_trained(beside: Path, reference: torch.Tensor) -> None:
    card = (beside / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    made: dict[str, Any] = {}
    exec(code, made)

    assert "The positions of the base are scaled (RoPE, type yarn, factor 4)." in card
    assert torch.equal(logits(made["model"]), reference)
    assert made["model"].config.max_position_embeddings == 4 * POSITIONS
    assert made["tokenizer"].model_max_length >= 4 * POSITIONS


def test_the_adapter_on_the_base_as_it_is_computes_something_else(
    adapter: Finished, qwen2: Path, reference: torch.Tensor
) -> None:
    """Or the two tests around this one would hold without any scaling."""
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(qwen2)
    found = logits(PeftModel.from_pretrained(base, str(adapter.volume / layout.OUTPUT_ADAPTER)))
    assert not torch.allclose(found, reference, atol=1e-3)


def test_the_merged_model_has_the_scaling_in_its_config(adapter: Finished, reference: torch.Tensor) -> None:
    directory = adapter.volume / layout.OUTPUT_MERGED
    settings = json.loads((directory / "config.json").read_bytes())

    assert settings["rope_parameters"] == YARN
    assert settings["max_position_embeddings"] == 4 * POSITIONS
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(directory)), reference, atol=1e-4)
    assert AutoTokenizer.from_pretrained(directory).model_max_length >= 4 * POSITIONS


@pytest.mark.parametrize(
    ("rope", "positions"),
    [(scaling(RopeType.LINEAR, 2.3), 1178), (scaling(RopeType.LLAMA3, 8, original_max_position_embeddings=256), 2048)],
    ids=["linear", "llama3"],
)
def test_a_whole_model_resumes_scaled_once_and_not_once_more(
    rope: RopeScaling, positions: int, llama: Path, tmp_path: Path
) -> None:
    config = scaled(job(llama, max_steps=4, save_every=2, learning_rate=1e-2), rope)
    whole = finish(tmp_path / "whole", config)
    volume = as_died_after(2, whole, tmp_path / "died")

    outcome = run_train(volume, config, attempt=2)

    assert outcome.exit_code is ExitCode.DONE, outcome.message
    one, other = (load_file(path / layout.OUTPUT_MODEL / "model.safetensors") for path in (whole.volume, volume))
    assert all(weights.equal(other[name]) for name, weights in one.items())
    for place in (whole.volume, volume):
        settings = json.loads((place / layout.OUTPUT_MODEL / "config.json").read_bytes())
        assert settings["max_position_embeddings"] == positions
        assert settings["rope_parameters"]["rope_type"] == rope.type
        assert settings["rope_parameters"]["factor"] == rope.factor


def test_a_quantized_base_is_scaled_too(qwen2: Path, tmp_path: Path) -> None:
    config = scaled(job(qwen2, method=lora(quantization=NF4), max_steps=1), scaling())

    run = finish(tmp_path, config, rows=4, held_out=2)

    assert run.outcome.exit_code is ExitCode.DONE, run.outcome.message


def test_rows_and_prompts_may_use_the_positions_that_are_added(qwen2: Path, tmp_path: Path) -> None:
    bench = Workbench(tmp_path, qwen2)
    data = bench.write("train.jsonl", [{"text": "a word and then " * 100}, {"text": "a line"}])
    config = bench.config(data, max_length=2 * POSITIONS)
    config = replace(config, evaluation=replace(config.evaluation, sample_prompts=("word " * 300,)))

    bench.run(scaled(config, scaling()))

    assert max(len(row["input_ids"]) for row in bench.sequences()) > POSITIONS
    with pytest.raises(StageError, match=f"maxLength is {2 * POSITIONS} but the model has {POSITIONS} positions"):
        bench.run(config)
    with pytest.raises(StageError, match=f"maxLength is {2 * POSITIONS} but the model has {POSITIONS + 256} positions"):
        bench.run(scaled(config, scaling(factor=1.5)))


def test_a_teacher_has_its_own_positions(qwen2: Path, tmp_path: Path) -> None:
    bench = Workbench(tmp_path, qwen2)
    teacher = Teacher(source=str(qwen2), revision=None)
    method = Method(
        lora=None, quantization=None, distillation=Distillation(teacher=teacher, temperature=1.0, alpha=0.5)
    )
    config = bench.config(bench.write("train.jsonl", [{"text": "a"}] * 2), method=method, max_length=2 * POSITIONS)

    with pytest.raises(
        StageError, match=f"is {2 * POSITIONS} but method.distillation.teacher has {POSITIONS} positions"
    ):
        bench.run(scaled(config, scaling()))


def config_json(directory: Path, **settings: Any) -> Path:
    (directory / "config.json").write_text(json.dumps(settings))
    return directory


OWN = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("settings", "rope", "problem"),
    [
        ({"model_type": "gpt2"}, scaling(), "gpt2 has no rotary position embeddings (RoPE) whose positions could be"),
        ({"model_type": "opt"}, scaling(), "opt has no rotary position embeddings"),
        ({"model_type": "bloom"}, scaling(RopeType.LINEAR), "bloom has no rotary position embeddings"),
        ({"model_type": "mamba"}, scaling(), "mamba has no rotary position embeddings"),
        (
            {"model_type": "gemma3_text"},
            scaling(),
            "the layers of gemma3_text have RoPE of several kinds (sliding_attention, full_attention); remove it",
        ),
        (
            {"model_type": "llama", "rope_parameters": OWN | {"original_max_position_embeddings": 64}},
            scaling(),
            "the model has RoPE of type llama3, factor 8 and 2048 positions already; remove it",
        ),
        (
            {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}},
            scaling(),
            "the model has RoPE of type linear, factor 2 and 2048 positions already; remove it",
        ),
        (
            {"model_type": "qwen2", "rope_parameters": {"rope_theta": 1e6, "mrope_section": [16, 24, 24]}},
            scaling(),
            "the RoPE of qwen2 has other parameters (mrope_section); remove it",
        ),
        (
            {"model_type": "llama"},
            scaling(original_max_position_embeddings=4096),
            "originalMaxPositionEmbeddings 4096 is above the 2048 positions of the model; lower it",
        ),
        (
            {"model_type": "llama"},
            scaling(factor=2, original_max_position_embeddings=1024),
            "factor 2 of 1024 positions is 2048, not above the 2048 that the model has; raise factor, or remove it",
        ),
    ],
)
def test_what_cannot_be_scaled_is_refused_in_a_sentence(
    settings: dict[str, Any], rope: RopeScaling, problem: str, tmp_path: Path
) -> None:
    model = scaled(run_config(model="/m", dataset="/d"), rope).model

    with pytest.raises(StageError) as refused:
        check_scaling(config_json(tmp_path, **settings), model)

    assert refused.value.message.startswith(f"model.ropeScaling: {problem}")


SMALL = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"model_type": "mixtral", "num_local_experts": 2},
            "transformers cannot scale the RoPE of mixtral so: unsupported operand type(s)",
        ),
        (
            {"model_type": "granitemoehybrid", "layer_types": ["attention", "attention"], "mamba_n_heads": 4},
            "the code of granitemoehybrid does not read RoPE scaling; remove it",
        ),
    ],
    ids=["cannot", "does not"],
)
def test_code_that_does_not_scale_is_found_without_weights(
    settings: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    config_json(write_tokenizer(tmp_path), **SMALL, **settings)
    config = run_config(model=str(tmp_path), dataset="/d", method=lora())

    found = find_refusal(scaled(config, scaling()), tmp_path)

    assert found is not None
    assert found.startswith(f"model.ropeScaling: {problem}")
    assert find_refusal(config, tmp_path) is None


@pytest.mark.parametrize(
    ("rope", "problem"),
    [
        (scaling(factor=1), "model.ropeScaling.factor must be above 1, not 1; remove model.ropeScaling for"),
        (scaling(beta_slow=40.0), "model.ropeScaling: betaSlow 40 must be below betaFast 32"),
        (
            scaling(RopeType.LLAMA3, low_freq_factor=4.0),
            "model.ropeScaling: lowFreqFactor 4.0 must be below highFreqFactor 4.0",
        ),
    ],
)
def test_what_contradicts_itself_is_told_at_once(rope: RopeScaling, problem: str) -> None:
    (found,) = problems(scaled(run_config(model="/m", dataset="/d"), rope))

    assert found.startswith(problem)


@pytest.mark.parametrize("kind", list(RopeType))
def test_limits_and_the_config_have_the_same_positions(kind: RopeType, qwen2: Path) -> None:
    from transformers import AutoConfig

    rope, config = scaling(kind, 3.3), AutoConfig.from_pretrained(qwen2)
    scale(config, rope, AutoConfig.from_pretrained(qwen2))

    assert kind.value in ROPE_INIT_FUNCTIONS
    assert config.max_position_embeddings == read_limits(qwen2, rope).positions == 1690


def test_the_card_of_an_adapter_scales_the_base_and_gives_it_rows_for_added_tokens(adapter: Finished) -> None:
    """Scaling is of the config, before the base is loaded; rows are of the loaded base."""
    config = replace(adapter.config, model=replace(adapter.config.model, source="hf://team/base"))
    stats = replace(adapter.stats, embedding_rows=514)
    made = CardContent(config=config, stats=stats, metrics={}, libraries={})
    unscaled = replace(made, config=replace(config, model=replace(config.model, rope_scaling=None)))

    assert (
        "base = AutoModelForCausalLM.from_pretrained(BASE, config=config)\n"
        "base.resize_token_embeddings(514, mean_resizing=False)\n"
        "model = PeftModel.from_pretrained(base, PLACE)\n" in model_card(made, layout.OUTPUT_ADAPTER)
    )
    assert (
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        "BASE = 'team/base'\nPLACE = \".\"  # this directory, or its repository on the hub\n"
        "base = AutoModelForCausalLM.from_pretrained(BASE)\n"
        "base.resize_token_embeddings(514, mean_resizing=False)\n" in model_card(unscaled, layout.OUTPUT_ADAPTER)
    )
    assert "resize" not in model_card(unscaled, layout.OUTPUT_MERGED)


def test_the_card_of_an_adapter_of_a_hub_model_names_its_revision(adapter: Finished) -> None:
    config = replace(adapter.config, model=replace(adapter.config.model, source="hf://team/base", revision="v2"))
    rope = scaling(RopeType.LLAMA3, 8, original_max_position_embeddings=8192)
    card = model_card(
        CardContent(config=scaled(config, rope), stats=adapter.stats, metrics={}, libraries={}), layout.OUTPUT_ADAPTER
    )

    assert "BASE = 'team/base'\nPLACE = \".\"" in card
    assert "config = AutoConfig.from_pretrained(BASE, revision='v2')\n" in card
    assert "base = AutoModelForCausalLM.from_pretrained(BASE, config=config, revision='v2')\n" in card
    assert (
        "text.rope_parameters = {**text.rope_parameters, 'rope_type': 'llama3', 'factor': 8.0, "
        "'original_max_position_embeddings': 8192, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0}\n"
        "text.max_position_embeddings = round(8.0 * 8192)\n" in card
    )
