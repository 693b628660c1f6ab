"""The arithmetic against real tensors of small models: weights, gradients, optimizer states, activations."""

import gc
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.reports.model_shape import ModelShape
from sftjob_contract.run.config import ModelDtype, Precision, RunConfig
from sftjob_contract.run.method import ComputeDtype, Method, Quantization, QuantizationType
from sftjob_contract.run.optimization import Optimizer
from sftjob_operator.plan import checkpoint_bytes, gpu_memory, trainable_parameters
from sftjob_operator.plan.memory import HEAD_TOKENS, HEAD_WORDS, base_weight_bytes
from sftjob_trainer.models.initial_adapter import initial_adapter
from sftjob_trainer.models.shape import read_model_shape, read_unfrozen
from sftjob_trainer.models.unfreezing import unfreeze
from support.trainer.optimizers import INSTALLED
from support.trainer.tiny import lora, run_config
from support.trainer.training import PEFT_IS_BEHIND

pytestmark = [
    PEFT_IS_BEHIND,
    pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
FULL = Method(lora=None, quantization=None, distillation=None)
ROWS, TOKENS = 2, 128
WIDTH = 128


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose larger weights are above the smallest size that bitsandbytes keeps in 8 bits."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=512,
        hidden_size=WIDTH,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    path = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def shape(directory: Path) -> ModelShape:
    found = read_model_shape(directory)
    assert found is not None
    return found


def a_run(method: Method, **training: Any) -> RunConfig:
    return run_config(
        model="/m", dataset="/d", method=method, per_device_batch_size=ROWS, max_length=TOKENS, **training
    )


def load(directory: Path, method: Method, dtype: str = "float32") -> Any:
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from sftjob_trainer.models.lora import lora_config

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    if method.lora is not None:
        model = get_peft_model(model, lora_config(method.lora))
        model.enable_input_require_grads()
    return model.train()


def backward(model: Any) -> None:
    import torch

    ids = torch.randint(3, 500, (ROWS, TOKENS))
    model(input_ids=ids, labels=ids).loss.backward()


def size(tensors: Iterable[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


@pytest.mark.parametrize(
    ("targets", "more"),
    [
        (("all-linear",), {}),
        (("q_proj", "v_proj"), {}),
        (("down_proj",), {}),
        (("self_attn.o_proj",), {}),
        (("q_proj", "embed_tokens"), {}),
        (("q_proj", "model.embed_tokens"), {"dora": True}),
        (("q_proj",), {"modules_to_save": ("model.embed_tokens",)}),
    ],
)
def test_trainable_parameters_are_those_that_peft_counts(
    targets: tuple[str, ...], more: dict[str, Any], directory: Path, shape: ModelShape
) -> None:
    method = lora(5, target_modules=targets, **more)
    assert load(directory, method).get_nb_trainable_parameters()[0] == trainable_parameters(method, shape)


@pytest.mark.parametrize("name", ["full", "lora"])
def test_weights_adapter_and_gradients_take_the_bytes_that_pytorch_gives_them(
    name: str, directory: Path, shape: ModelShape
) -> None:
    method = FULL if name == "full" else lora(8)
    model = load(directory, method)
    backward(model)
    parameters = list(model.parameters())
    memory = gpu_memory(a_run(method), shape, TOKENS)
    assert memory.weights + memory.adapter == size(parameters)
    assert memory.gradients == size(parameter.grad for parameter in parameters)


@pytest.mark.parametrize("patterns", [("model.layers.2", "model.norm"), ("lm_head",), ("model.embed_tokens",)])
def test_of_weights_that_are_trained_by_name_only_those_have_gradients_and_states(
    patterns: tuple[str, ...], directory: Path, shape: ModelShape
) -> None:
    import torch

    model = load(directory, FULL)
    unfreeze(model, patterns)
    backward(model)
    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    steps = torch.optim.AdamW(trained)
    steps.step()
    states = [state[name] for state in steps.state.values() for name in ("exp_avg", "exp_avg_sq")]

    run, part = (
        a_run(replace(FULL, unfrozen_parameters=patterns)),
        replace(shape, unfrozen=read_unfrozen(directory, patterns)),
    )
    memory = gpu_memory(run, part, TOKENS)

    assert memory.weights == size(parameters)
    assert memory.gradients == size(parameter.grad for parameter in trained)
    assert memory.optimizer == size(states)
    assert checkpoint_bytes(run, part) == size(parameters) + size(states)
    head = shape.vocabulary_size * shape.hidden_size * 4
    assert gpu_memory(a_run(FULL), shape, TOKENS).logits - memory.logits == (0 if patterns == ("lm_head",) else head)


@pytest.mark.parametrize("value", ["pissa", "olora", "gaussian"])
def test_a_checkpoint_holds_the_adapter_before_its_first_step_where_the_base_was_changed(
    value: str, directory: Path, shape: ModelShape
) -> None:
    plain, method = lora(4), lora(4, extra={"init_lora_weights": value})
    kept = initial_adapter(load(directory, method), method.lora, None) or {}
    more = checkpoint_bytes(a_run(method), shape) - checkpoint_bytes(a_run(plain), shape)
    assert more == size(kept.values())
    assert bool(more) == (value != "gaussian")


@pytest.mark.parametrize("optimizer", INSTALLED)
@pytest.mark.parametrize("name", ["full", "lora"])
def test_optimizers_keep_what_they_keep(
    name: str, optimizer: Optimizer, directory: Path, shape: ModelShape, tmp_path: Path
) -> None:
    from transformers import Trainer, TrainingArguments

    method = FULL if name == "full" else lora(24)
    model = load(directory, method)
    arguments = TrainingArguments(output_dir=str(tmp_path), optim=optimizer.value, use_cpu=True, report_to=[])
    created = Trainer(model=model, args=arguments).create_optimizer()
    backward(model)
    created.step()
    kept = [
        value
        for state in created.state.values()
        for key, value in state.items()
        if hasattr(value, "numel") and value.numel() > 1 and not key.startswith("qmap")  # shared code books
    ]
    config = a_run(method, optimizer=optimizer)
    assert gpu_memory(config, shape, TOKENS).optimizer == size(kept)
    assert checkpoint_bytes(config, shape) == size(p for p in model.parameters() if p.requires_grad) + size(kept)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("kind", list(QuantizationType))
def test_4_bit_weights_take_what_bitsandbytes_stores(
    kind: QuantizationType, *, double: bool, directory: Path, shape: ModelShape
) -> None:
    quantization = Quantization(bits=4, type=kind, double_quantization=double, compute_dtype=ComputeDtype.BFLOAT16)
    model = quantized(directory, quantization)
    stored = size(model.parameters())
    for module in model.modules():
        if (state := getattr(getattr(module, "weight", None), "quant_state", None)) is not None:
            stored += size([state.absmax, state.state2.absmax if double else None])
    config = a_run(lora(4, quantization=quantization))
    assert base_weight_bytes(config, shape) == pytest.approx(stored, abs=3 * 7 * 4)  # a last block may not be full


def test_8_bit_weights_take_what_bitsandbytes_stores(directory: Path, shape: ModelShape) -> None:
    quantization = Quantization(
        bits=8, type=QuantizationType.NF4, double_quantization=True, compute_dtype=ComputeDtype.BFLOAT16
    )
    model = quantized(directory, quantization)
    stored = size(model.parameters()) + size(getattr(p, "SCB", None) for p in model.parameters())
    assert base_weight_bytes(a_run(lora(4, quantization=quantization)), shape) == stored


def quantized(directory: Path, quantization: Quantization) -> Any:
    from transformers import AutoModelForCausalLM

    from sftjob_trainer.models.load import quantization_config

    return AutoModelForCausalLM.from_pretrained(
        directory,
        dtype="float32",
        quantization_config=quantization_config(quantization, Precision.FP32),
        device_map={"": "cpu"},
    )


def stored_for_backward(model: Any, *, autocast: bool) -> int:
    """Bytes that autograd keeps of the decoder's forward pass, without parameters and their casts."""
    import torch

    sizes = {parameter.numel() for parameter in model.parameters() if parameter.requires_grad}
    held: dict[int, Any] = {}
    owned = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        is_cast = tensor.dim() == 2 and tensor.numel() in sizes
        if storage.data_ptr() not in owned and not is_cast:
            held[storage.data_ptr()] = storage
        return tensor

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
    ):
        result = base.model(input_ids=torch.randint(3, 500, (ROWS, TOKENS)), use_cache=False)
    assert result.last_hidden_state.requires_grad
    return sum(storage.nbytes() for storage in held.values())


ACTIVATIONS: dict[str, tuple[Method, Precision, ModelDtype]] = {
    "full, fp32": (FULL, Precision.FP32, ModelDtype.AUTO),
    "full, bf16 steps on fp32 weights": (FULL, Precision.BF16, ModelDtype.AUTO),
    "full, bf16 weights": (FULL, Precision.BF16, ModelDtype.BFLOAT16),
    "lora, fp32": (lora(4), Precision.FP32, ModelDtype.AUTO),
    "lora, fp32, dropout": (lora(4, dropout=0.1), Precision.FP32, ModelDtype.AUTO),
    "lora, bf16": (lora(4), Precision.BF16, ModelDtype.AUTO),
    "lora, bf16, dropout": (lora(4, dropout=0.1), Precision.BF16, ModelDtype.AUTO),
    "lora on two layers, bf16": (lora(4, target_modules=("q_proj", "v_proj")), Precision.BF16, ModelDtype.AUTO),
}


@pytest.mark.parametrize("case", ACTIVATIONS)
def test_activations_are_what_autograd_stores(case: str, directory: Path, shape: ModelShape) -> None:
    method, precision, dtype = ACTIVATIONS[case]
    config = a_run(method, precision=precision)
    config = replace(config, model=replace(config.model, dtype=dtype))
    bf16 = precision is Precision.BF16
    half = bf16 and (method.lora is not None or dtype is ModelDtype.BFLOAT16)
    stored = stored_for_backward(load(directory, method, "bfloat16" if half else "float32"), autocast=bf16)
    gc.collect()
    assert gpu_memory(config, shape, TOKENS).activations == pytest.approx(stored, rel=0.03)


def test_the_fused_head_works_in_tiles_of_the_size_that_is_counted() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.kernels import chunked_logprob
        from trl.trainer import utils

    assert chunked_logprob.TOKEN_CHUNK_SIZE == HEAD_TOKENS
    assert utils._CHUNKED_LOGPROB_CHUNK_SIZE == HEAD_WORDS
