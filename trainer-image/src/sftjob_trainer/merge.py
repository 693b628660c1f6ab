"""The adapter merged into a fresh copy of its base model, for whoever wants to serve one model without PEFT."""

import gc
import logging
import shutil
from pathlib import Path
from typing import Final

from sftjob_contract import layout
from sftjob_contract.config import RunConfig
from sftjob_trainer.durable import replace_directory, sync_tree

logger = logging.getLogger(__name__)

_SHARD: Final = "2GB"


def merge(base: Path, config: RunConfig, volume: Path) -> None:
    """Write `output/merged`: the model in `base` with the published adapter merged in, and its tokenizer.

    The base is loaded anew, on the CPU and as it lies on the disk: one that was quantized for training would keep the
    quantization's errors. Files are mapped, not read, so memory is needed for changed weights and one shard.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    gc.collect()  # the trained model, which nobody refers to any more
    adapter = volume / layout.OUTPUT_ADAPTER
    target = volume / layout.OUTPUT_MERGED
    staging = target.with_name(f".{target.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    trust = config.model.trust_remote_code
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", trust_remote_code=trust)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(safe_merge=True)
    merged.save_pretrained(staging, max_shard_size=_SHARD)
    shutil.copytree(
        adapter, staging, ignore=shutil.ignore_patterns("adapter_*"), copy_function=shutil.copyfile, dirs_exist_ok=True
    )
    sync_tree(staging)
    replace_directory(staging, target, aside=target.with_name(f".{target.name}.replaced"))
    logger.info("merged the adapter into its base model: %s", layout.OUTPUT_MERGED)
