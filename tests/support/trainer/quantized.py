"""Tiny models whose weights are stored quantized, as repositories have them."""

import json
import shutil
from pathlib import Path
from typing import Any

from support.trainer.tiny import POSITIONS, VOCABULARY, write_tokenizer

FP8_LARGEST = 448.0
"""Of float8_e4m3fn."""
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts_per_tok": 2,
    "max_position_embeddings": POSITIONS,
    "eos_token_id": 2,
    "bos_token_id": None,
    "pad_token_id": 0,
}


def write_bitsandbytes(directory: Path, model: Path, **options: Any) -> Path:
    """`model` in bitsandbytes' format, by default 4 bits of nf4; `options` are those of BitsAndBytesConfig."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantized = BitsAndBytesConfig(**(options or {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}))
    shutil.copytree(model, directory, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    loaded = AutoModelForCausalLM.from_pretrained(model, quantization_config=quantized, device_map={"": "cpu"})
    loaded.save_pretrained(directory)
    return directory


def write_fp8(directory: Path, model: Path) -> Path:
    """`model` as DeepSeek and Qwen store FP8: each linear layer with the scales of its blocks, the rest in bf16."""
    import torch
    from safetensors.torch import load_file

    tensors = {}
    for name, weights in load_file(model / "model.safetensors").items():
        if "_proj.weight" not in name:
            tensors[name] = weights.bfloat16()
            continue
        scale = weights.abs().max() / FP8_LARGEST
        tensors[name] = (weights / scale).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = scale.reshape(1, 1).float()
    shutil.copytree(model, directory, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    settings = json.loads((model / "config.json").read_text())
    stored = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]}
    return _write(directory, tensors, {**settings, "quantization_config": stored})


def write_experts(directory: Path) -> Path:
    """A Qwen3-MoE model, whose experts are stored one by one and loaded as one weight."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(**_SIZES, moe_intermediate_size=64, num_experts=4)
    write_tokenizer(directory)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Qwen3MoeForCausalLM(config).save_pretrained(directory)
    return directory


def write_mxfp4(directory: Path) -> Path:
    """A gpt-oss model as it is published: experts in blocks of MXFP4 with their scales, the rest in bf16."""
    import torch
    from transformers import AutoModelForCausalLM, GptOssConfig

    config = GptOssConfig(**_SIZES, num_local_experts=4, architectures=["GptOssForCausalLM"])
    write_tokenizer(directory)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = AutoModelForCausalLM.from_config(config).state_dict()
        tensors = {}
        for name, tensor in weights.items():
            if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                tensors[name] = tensor.bfloat16()
                continue
            experts, inner, outer = tensor.shape
            tensors[f"{name}_blocks"] = torch.randint(0, 255, (experts, outer, inner // 32, 16), dtype=torch.uint8)
            tensors[f"{name}_scales"] = torch.full((experts, outer, inner // 32), 120, dtype=torch.uint8)
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    stored = {"quant_method": "mxfp4", "modules_to_not_convert": kept}
    return _write(directory, tensors, {**config.to_dict(), "quantization_config": stored})


def _write(directory: Path, tensors: dict[str, Any], settings: dict[str, Any]) -> Path:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(settings))
    return directory
