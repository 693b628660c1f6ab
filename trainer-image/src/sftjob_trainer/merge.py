"""The adapter merged into a fresh copy of its base model, for whoever wants to serve one model without PEFT."""

import gc
import logging
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any, Final

from sftjob_contract import layout
from sftjob_contract.config import Precision
from sftjob_trainer.card import CARD, Made, model_card
from sftjob_trainer.durable import replace_directory, sync_tree
from sftjob_trainer.quantized_base import loading_config

logger = logging.getLogger(__name__)

_SHARD: Final = "2GB"


def merge(base: Path, made: Made, volume: Path) -> None:
    """Write `output/merged`: the model in `base` with the published adapter merged in, its tokenizer and a card.

    The base is loaded anew, on the CPU and as it lies on the disk: one that was quantized for training would keep the
    quantization's errors. Its files are mapped, not read, and changed weights go to files as well, so that memory is
    needed for a few of them at a time, however large the model.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    gc.collect()  # the trained model, which nobody refers to any more
    adapter = volume / layout.OUTPUT_ADAPTER
    target = volume / layout.OUTPUT_MERGED
    staging = target.with_name(f".{target.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    trust = made.config.model.trust_remote_code
    stored = loading_config(base, made.config, Precision.FP32)
    model = AutoModelForCausalLM.from_pretrained(base, config=stored, dtype="auto", trust_remote_code=trust)
    adapted = PeftModel.from_pretrained(model, str(adapter))
    staging.mkdir(parents=True)
    _merge_layers(adapted, staging)
    with warnings.catch_warnings(action="ignore"):  # PEFT says of each layer that it is merged already
        merged = adapted.merge_and_unload(safe_merge=True)
    merged.save_pretrained(staging, max_shard_size=_SHARD)
    shutil.copytree(
        adapter, staging, ignore=shutil.ignore_patterns("adapter_*"), copy_function=shutil.copyfile, dirs_exist_ok=True
    )
    (staging / CARD).write_text(model_card(made, layout.OUTPUT_MERGED), encoding="utf-8")
    sync_tree(staging)
    replace_directory(staging, target, aside=target.with_name(f".{target.name}.replaced"))
    logger.info("merged the adapter into its base model: %s", layout.OUTPUT_MERGED)


def _merge_layers(adapted: Any, directory: Path) -> None:
    """Merge the adapter into layer after layer; what comes of it lies in files without a name in `directory`."""
    from peft.tuners.lora import LoraLayer

    for layer in adapted.modules():
        if isinstance(layer, LoraLayer):
            layer.merge(safe_merge=True)
            for parameter in layer.get_base_layer().parameters(recurse=False):
                parameter.data = _on_disk(parameter.data, directory)


def _on_disk(tensor: Any, directory: Path) -> Any:
    """A copy of `tensor` in a file, which the kernel may drop from memory; on the disk as long as the copy is used.

    Raises:
        OSError: there is no room. Without asking for it first, the process would be killed when a page is written.
    """
    import torch

    with tempfile.NamedTemporaryFile(dir=directory) as file:
        os.posix_fallocate(file.fileno(), 0, tensor.nbytes)
        copy = torch.from_file(file.name, shared=True, size=tensor.numel(), dtype=tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor)
