"""4-bit weights that an evaluation or a merge spoils when nothing is done about it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from support.trainer.stock import STOCK_WARNS, stock_trainer
from support.trainer.training import documents

pytestmark = STOCK_WARNS


@pytest.fixture(scope="module")
def wide(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with whole blocks of 64 weights in each row, as real ones have; only such are repacked. No biases."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    directory = tmp_path_factory.mktemp("wide") / "model"
    shutil.copytree(llama, directory)
    config = AutoConfig.from_pretrained(llama, hidden_size=64, intermediate_size=128, head_dim=32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


def stock_qlora(model: Path, output: Path) -> Any:
    """A stock QLoRA trainer whose adapters already do something: B is zero at first."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantized = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    loaded = AutoModelForCausalLM.from_pretrained(model, quantization_config=quantized, device_map={"": "cpu"})
    rows = [{"input_ids": ids, "labels": ids} for ids in documents(8, seed=1)]
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = stock_trainer(loaded, rows, output, eval_strategy="no", trainer={"peft_config": lora})
    trainer.eval_dataset = trainer.train_dataset
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    return trainer


def gradient(trainer: Any, batch: Any) -> Any:
    """Gradients of all adapters at `batch`, end to end."""
    import torch

    trainer.model.train()
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, dict(batch)).backward()
    return torch.cat([one.grad.flatten().float() for one in trainer.model.parameters() if one.grad is not None])


def has_avx512_bf16() -> bool:
    from bitsandbytes.nn.modules import has_avx512bf16

    return bool(has_avx512bf16())


def test_an_evaluation_spoils_the_gradients_of_a_stock_run(wide: Path, tmp_path: Path) -> None:
    """Our side: an evaluation in between leaves gradients of a quantized model alone."""
    import torch

    if not has_avx512_bf16():
        pytest.skip("bitsandbytes repacks weights only on CPUs with AVX512-BF16")
    trainer = stock_qlora(wide, tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))

    before = gradient(trainer, batch)
    trainer.evaluate()
    after = gradient(trainer, batch)

    assert float(torch.cosine_similarity(before, after, dim=0)) < 0.9


def test_a_merge_into_quantized_weights_is_another_model(qwen2: Path, tmp_path: Path) -> None:
    """Our side: the merged model computes what base and adapter do."""
    import torch

    model = stock_qlora(qwen2, tmp_path).model
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    ids = torch.tensor([[3, 4, 5, 6, 7, 8]])
    with torch.no_grad():
        unmerged = model.eval()(input_ids=ids).logits
        merged = model.merge_and_unload()(input_ids=ids).logits

    assert float((merged - unmerged).abs().max()) > 2e-2 * float(unmerged.abs().max())
