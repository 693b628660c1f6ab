"""The shape of a model, read without its tensors, against what PyTorch and PEFT count once they have it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.codec import encode, from_json, to_json
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import TERMINATION_MESSAGE_LIMIT_BYTES, Stage
from sftjob_contract.reports.model_shape import (
    LINEAR_KINDS_LIMIT,
    LINEAR_NAME_LIMIT,
    UNFROZEN_KINDS_LIMIT,
    LinearShape,
    ModelShape,
    UnfrozenShape,
)
from sftjob_contract.reports.outcome import OUTCOME_VERSION, Outcome, termination_message
from sftjob_contract.reports.stats import PreparedStats
from sftjob_trainer.models.lora import layers_of
from sftjob_trainer.models.shape import read_layers, read_model_shape, read_unfrozen
from sftjob_trainer.models.unfreezing import unfreeze
from sftjob_trainer.process.errors import StageError
from support.trainer.preparing import Workbench
from support.trainer.training import PEFT_IS_BEHIND, stats_of

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 96}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**SIZES, "num_key_value_heads": 2}),
    "llama with biases": ("LlamaConfig", {**SIZES, "attention_bias": True, "mlp_bias": True}),
    "llama, tied, wide heads": ("LlamaConfig", {**SIZES, "tie_word_embeddings": True, "head_dim": 16}),
    "mistral": ("MistralConfig", {**SIZES, "num_key_value_heads": 2}),
    "qwen2": ("Qwen2Config", {**SIZES, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {**SIZES, "num_key_value_heads": 2, "head_dim": 16}),
    "gemma": ("GemmaConfig", {**SIZES, "num_key_value_heads": 1, "head_dim": 16}),
    "phi3": ("Phi3Config", {**SIZES, "pad_token_id": 0}),
    "gpt-neox": ("GPTNeoXConfig", SIZES),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 96, "n_positions": 64}),
}
"""Small models of the dense architectures that people fine-tune."""


def build(name: str) -> Any:
    import transformers

    kind, options = CONFIGS[name]
    config = getattr(transformers, kind)(**options, bos_token_id=1, eos_token_id=2)
    return transformers.AutoModelForCausalLM.from_config(config)


def read(directory: Path) -> ModelShape:
    shape = read_model_shape(directory)
    assert shape is not None
    return shape


def edit(directory: Path, **changes: Any) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return directory


@pytest.fixture
def copied(qwen2: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(qwen2, tmp_path / "model"))


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_that_pytorch_counts(name: str, tmp_path: Path) -> None:
    model = build(name)
    model.save_pretrained(tmp_path)
    shape = read(tmp_path)
    named = dict(model.named_parameters())
    assert shape.parameters == sum(parameter.numel() for parameter in named.values())
    assert shape.bias_parameters == sum(p.numel() for path, p in named.items() if path.endswith(".bias"))
    assert shape.weight_bytes == (tmp_path / "model.safetensors").stat().st_size


@PEFT_IS_BEHIND
@pytest.mark.parametrize("name", CONFIGS)
def test_linear_layers_are_those_that_peft_finds(name: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = build(name)
    model.save_pretrained(tmp_path)
    shape = read(tmp_path)
    lora = LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM", fan_in_fan_out=name == "gpt2")
    adapted = get_peft_model(model, lora)
    trainable, _ = adapted.get_nb_trainable_parameters()
    assert sum(3 * (kind.in_features + kind.out_features) * kind.count for kind in shape.linear_layers) == trainable


@pytest.mark.parametrize("name", CONFIGS)
def test_layers_have_the_names_that_they_have_in_the_loaded_model(name: str, tmp_path: Path) -> None:
    model = build(name)
    model.save_pretrained(tmp_path)

    found, loaded = read_layers(tmp_path), layers_of(model)

    assert set(found.linear) == set(loaded.linear) - {loaded.head}
    assert found.head == loaded.head
    assert set(found.weighted) == set(loaded.weighted)
    assert set(found.every) <= set(loaded.every)


@pytest.mark.parametrize("name", ["llama", "llama with biases", "llama, tied, wide heads", "mistral", "qwen2"])
def test_pickled_weights_of_a_known_model_follow_from_its_config(name: str, tmp_path: Path) -> None:
    build(name).save_pretrained(tmp_path)
    expected = encode(read(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 1000)
    assert encode(read(tmp_path)) == {**expected, "weightBytes": 1000}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("patterns", [(r".*(mlp|attention)", ".*norm"), (r".*embed", ".*wte"), ("lm_head",), (".",)])
def test_weights_that_are_trained_by_name_are_those_that_are_unfrozen(
    name: str, patterns: tuple[str, ...], tmp_path: Path
) -> None:
    model = build(name)
    model.save_pretrained(tmp_path)
    found = read_unfrozen(tmp_path, patterns)
    try:
        unfreeze(model, patterns)
    except StageError:
        assert found is None
        return
    trained = [weights for weights in model.parameters() if weights.requires_grad]
    embeddings = [model.get_input_embeddings().weight] + [p for n, p in model.named_parameters() if "wpe" in n]
    assert found is not None
    assert sum(kind.rows * kind.columns * kind.count for kind in found) == sum(p.numel() for p in trained)
    assert sum(kind.count for kind in found if kind.columns > 1) == sum(p.ndim > 1 for p in trained)
    assert sum(kind.count for kind in found if kind.is_embedding) == sum(
        any(weights is embedding for embedding in embeddings) for weights in trained
    )


def test_a_pattern_that_begins_no_name_of_the_files_leaves_open_what_is_trained(copied: Path) -> None:
    assert read_unfrozen(copied, ["model.layers.0", "transformer.h"]) is None


def test_qwen2_is_read_in_full(qwen2: Path) -> None:
    linear = {kind.name: (kind.in_features, kind.out_features, kind.count) for kind in read(qwen2).linear_layers}
    assert linear == {
        "self_attn.q_proj": (32, 32, 2),
        "self_attn.k_proj": (32, 16, 2),
        "self_attn.v_proj": (32, 16, 2),
        "self_attn.o_proj": (32, 32, 2),
        "mlp.gate_proj": (32, 64, 2),
        "mlp.up_proj": (32, 64, 2),
        "mlp.down_proj": (64, 32, 2),
    }
    shape = read(qwen2)
    assert (shape.hidden_size, shape.intermediate_size, shape.layers) == (32, 64, 2)
    assert (shape.attention_heads, shape.key_value_heads, shape.head_size) == (4, 2, 8)
    assert (shape.vocabulary_size, shape.tied_embeddings) == (512, True)


def test_a_head_that_is_stored_beside_the_embedding_it_is_tied_to_counts_once(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    before = read(copied)
    weights = load_file(copied / "model.safetensors")
    save_file({**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}, copied / "model.safetensors")
    assert read(copied).parameters == before.parameters


def test_a_model_in_several_files_is_read_through_its_index(tmp_path: Path) -> None:
    model = build("llama")
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    files = list((tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 2
    one, many = encode(read(tmp_path / "one")), encode(read(tmp_path / "many"))
    assert many == {**one, "weightBytes": sum(path.stat().st_size for path in files)}


def test_tensors_are_not_read(copied: Path) -> None:
    path = copied / "model.safetensors"
    content = path.read_bytes()
    expected = read(copied)
    header = 8 + int.from_bytes(content[:8], "little")
    path.write_bytes(content[:header] + b"\xff" * (len(content) - header))
    assert read(copied) == expected


def test_reading_a_shape_does_not_load_pytorch(qwen2: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from sftjob_trainer.process.libraries import import_transformers_without_torch\n"
        "from sftjob_trainer.models.shape import read_model_shape\n"
        "import_transformers_without_torch()\n"
        "assert read_model_shape(Path(sys.argv[1])).parameters > 0\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", program, str(qwen2)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_mixture_of_experts_has_no_shape(tmp_path: Path) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=2)).save_pretrained(tmp_path)
    assert read_model_shape(tmp_path) is None


def test_a_model_that_is_no_transformer_has_no_shape(tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    MambaForCausalLM(MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=96)).save_pretrained(tmp_path)
    assert read_model_shape(tmp_path) is None


UNCERTAIN: dict[str, dict[str, Any]] = {
    "weights quantized already": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    "layers that are not there": {"num_hidden_layers": 7},
    "an embedding of another size": {"vocab_size": 500},
    "an architecture that nobody knows": {"model_type": "made-up"},
    "a config that makes no sense": {"hidden_size": "wide"},
}


@pytest.mark.parametrize("case", UNCERTAIN)
def test_what_is_not_certain_is_not_told(case: str, copied: Path) -> None:
    assert read_model_shape(edit(copied, **UNCERTAIN[case])) is None


@pytest.mark.parametrize("content", [b"", b"12345678", b"\xff" * 64, b"\x02" + b"\x00" * 7 + b"[]"])
def test_weights_that_are_no_safetensors_have_no_shape(content: bytes, copied: Path) -> None:
    (copied / "model.safetensors").write_bytes(content)
    assert read_model_shape(copied) is None


def test_pickled_weights_of_an_unknown_model_have_no_shape(tmp_path: Path) -> None:
    build("gpt-neox").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert read_model_shape(tmp_path) is None


def test_prepare_tells_the_shape(bench: Workbench, qwen2: Path) -> None:
    data = bench.write("train.jsonl", [{"text": f"line {number} of a file"} for number in range(8)])
    stats = bench.prepare(data, model=str(qwen2))
    assert stats.model_shape == read(qwen2)
    assert from_json(PreparedStats, to_json(stats), ignore_unknown=False) == stats


def test_prepare_succeeds_without_a_shape(bench: Workbench) -> None:
    data = bench.write("train.jsonl", [{"text": f"line {number} of a file"} for number in range(8)])
    assert bench.prepare(data).model_shape is None


def stack(directory: Path, kinds: int, name: str) -> Path:
    """A made-up model of one layer with many kinds of linear layers."""
    import torch
    from safetensors.torch import save_file

    weights = {f"model.layers.0.{name}{number:02}.weight": torch.zeros(2, 2) for number in range(kinds)}
    save_file({"model.embed_tokens.weight": torch.zeros(96, 32), **weights}, directory / "model.safetensors")
    build_config = {"model_type": "llama", **SIZES, "num_hidden_layers": 1, "tie_word_embeddings": True}
    (directory / "config.json").write_text(json.dumps(build_config))
    return directory


def test_a_model_of_too_many_kinds_of_layers_has_no_shape(tmp_path: Path) -> None:
    assert len(read(stack(tmp_path, LINEAR_KINDS_LIMIT, "a")).linear_layers) == LINEAR_KINDS_LIMIT
    assert read_model_shape(stack(tmp_path, LINEAR_KINDS_LIMIT + 1, "a")) is None


def test_a_layer_with_too_long_a_name_has_no_shape(tmp_path: Path) -> None:
    assert read_model_shape(stack(tmp_path, 1, "a" * LINEAR_NAME_LIMIT)) is None


def test_the_largest_shape_fits_into_a_termination_message() -> None:
    huge = 10**14
    kinds = tuple(
        LinearShape(name=f"{number:02}".ljust(LINEAR_NAME_LIMIT, "x"), in_features=huge, out_features=huge, count=huge)
        for number in range(LINEAR_KINDS_LIMIT)
    )
    shape = ModelShape(
        parameters=huge,
        bias_parameters=huge,
        weight_bytes=huge,
        hidden_size=huge,
        intermediate_size=huge,
        layers=huge,
        attention_heads=huge,
        key_value_heads=huge,
        head_size=huge,
        vocabulary_size=huge,
        tied_embeddings=True,
        linear_layers=kinds,
        unfrozen=(UnfrozenShape(rows=10**9, columns=10**9, count=10**9, is_embedding=True),) * UNFROZEN_KINDS_LIMIT,
    )
    stats = stats_of(**dict.fromkeys(("rows", "train_rows", "tokens", "trained_tokens", "max_steps"), huge))
    told = Outcome(
        version=OUTCOME_VERSION,
        stage=Stage.PREPARE,
        exit_code=ExitCode.DONE,
        prepared=PreparedStats(**{**vars(stats), "model_shape": shape, "model_revision": "f" * 40}),
        libraries={f"library-{number}": "10.20.30" for number in range(16)},
    )
    text = termination_message(told)
    assert len(text.encode()) <= TERMINATION_MESSAGE_LIMIT_BYTES
    assert from_json(Outcome, text, ignore_unknown=False).prepared == told.prepared
    assert len(text) > TERMINATION_MESSAGE_LIMIT_BYTES // 2, "a shape this large was made"
