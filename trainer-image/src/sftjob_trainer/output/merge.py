"""Merge the adapter into a fresh copy of its base model, to serve one model without PEFT."""

import gc
import json
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from sftjob_contract import layout
from sftjob_contract.run.config import Precision
from sftjob_trainer.models.added_tokens import resize_embedding, rows_for
from sftjob_trainer.models.load import config_option
from sftjob_trainer.models.quantized_base import loading_config, save_unquantized
from sftjob_trainer.output.export import write_results
from sftjob_trainer.output.merge_check import (
    MERGED_LOSS,
    check_agreement,
    compute_outputs,
    merge_loss_warning,
    read_rows,
)
from sftjob_trainer.output.model_card import CARD, CardContent, model_card
from sftjob_trainer.process.atomic_files import replace_directory, sync_tree
from sftjob_trainer.tokens.tokenizer import new_tokens
from sftjob_trainer.training.starting_point import ADAPTER_CONFIG

logger = logging.getLogger(__name__)

_SHARD: Final = "2GB"


def merge(base: Path, card_content: CardContent, volume: Path) -> Mapping[str, float]:
    """Write `output/merged`: the model in `base` with the published adapter merged in, its tokenizer and a card.

    The base is loaded again, on the CPU and as stored: a base quantized for training would keep the quantization error.
    Its files are mapped, not read, and changed weights are written to files as well. Memory is therefore needed for
    only a few of them at a time, however large the model, unless `mergeDtype` differs from the base's dtype.

    Returns:
        The evaluation loss of the merged model, if rows were held out.

    Raises:
        StageError: the merged model, loaded again, does not compute what base and adapter compute.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    gc.collect()  # the trained model, which is no longer referenced
    adapter = volume / layout.OUTPUT_ADAPTER
    target = volume / layout.OUTPUT_MERGED
    staging = target.with_name(f".{target.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    options = {"trust_remote_code": card_content.config.model.trust_remote_code}
    model = _loaded(base, card_content, options)
    untie(model, json.loads((adapter / ADAPTER_CONFIG).read_bytes()))
    adapted = PeftModel.from_pretrained(model, str(adapter))
    rows, held_out = read_rows(volume)
    unmerged = compute_outputs(adapted, rows)
    with adapted.disable_adapter():
        untrained = compute_outputs(adapted, rows[: unmerged.rows])
    rows = rows[: untrained.rows]
    if untrained.rows < unmerged.rows:
        unmerged = compute_outputs(adapted, rows)
    staging.mkdir(parents=True)
    _merge_layers(adapted, staging)
    with warnings.catch_warnings(action="ignore"):  # PEFT warns for each layer that it is merged already
        merged = adapted.merge_and_unload(safe_merge=True)
    merged.save_pretrained(staging, max_shard_size=_SHARD)
    del adapted, merged, model
    gc.collect()
    reloaded = AutoModelForCausalLM.from_pretrained(staging, dtype="auto", **options)
    outputs = compute_outputs(reloaded, rows)
    check_agreement(unmerged, outputs, reloaded.dtype)
    warning = merge_loss_warning(untrained.loss, unmerged.loss, outputs.loss, reloaded.dtype) if rows else None
    if warning is not None:
        logger.warning("%s", warning)
    measured = {MERGED_LOSS: outputs.loss} if held_out and rows else {}
    content = replace(card_content, metrics={**card_content.metrics, **measured}, note=warning)
    _finish(adapter, staging, target, model_card(content, layout.OUTPUT_MERGED))
    write_results(content.metrics, volume)
    logger.info(
        "merged the adapter into its base model: %s, which computes what both do on %d rows",
        layout.OUTPUT_MERGED,
        len(rows),
    )
    return measured


def _loaded(base: Path, card_content: CardContent, options: Mapping[str, Any]) -> Any:
    """The model in `base` with RoPE scaling, and with embedding rows for added tokens."""
    from transformers import AutoModelForCausalLM

    config, wanted = card_content.config, card_content.config.output.merge_dtype
    stored = loading_config(base, config, Precision.FP32)
    given = {"dtype": "auto" if wanted is None else wanted.value, **config_option(stored, base, config.model)}
    model = AutoModelForCausalLM.from_pretrained(base, **given, **options)
    if stored is not None:
        save_unquantized(model)
    resize_embedding(model, rows_for(new_tokens(base, config.model).values()), config.training.seed)
    return model


def _finish(adapter: Path, staging: Path, target: Path, card: str) -> None:
    """Add tokenizer and card, and make the directory visible at once."""
    shutil.copytree(
        adapter, staging, ignore=shutil.ignore_patterns("adapter_*"), copy_function=shutil.copyfile, dirs_exist_ok=True
    )
    (staging / CARD).write_text(card, encoding="utf-8")
    sync_tree(staging)
    replace_directory(staging, target, backup=target.with_name(f".{target.name}.replaced"))


def untie(model: Any, adapter: Mapping[str, Any]) -> None:
    """Give `model` a separate output head if it is tied to the embedding and the adapter changes one of the two.

    Training changed only the layer that the adapter names, so merging into shared weights would change the other too.
    """
    import torch

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or head.weight is not embedding.weight or adapter.get("ensure_weight_tying"):
        return
    names = [name for name, module in model.named_modules() if module is embedding or module is head]
    if not any(_changes(adapter, name) for name in names):
        return
    head.weight = torch.nn.Parameter(embedding.weight.detach().clone(), requires_grad=False)
    for config in {
        id(model_config): model_config for model_config in (model.config, model.config.get_text_config())
    }.values():
        config.tie_word_embeddings = False
    logger.info("the adapter changes %s, which are tied in the base: the merged model has a separate head", names)


def _changes(adapter: Mapping[str, Any], name: str) -> bool:
    """Whether an adapter with this config has weights for the layer `name`."""
    targets = adapter.get("target_modules") or []
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(
        name == target or name.endswith(f".{target}") for target in (*targets, *(adapter.get("modules_to_save") or []))
    )


def _merge_layers(adapted: Any, directory: Path) -> None:
    """Merge the adapter layer by layer; the results are stored in unnamed files in `directory`."""
    from peft.tuners.lora import LoraLayer

    for layer in adapted.modules():
        if isinstance(layer, LoraLayer):
            layer.merge(safe_merge=True)
            for parameter in layer.get_base_layer().parameters(recurse=False):
                parameter.data = _on_disk(parameter.data, directory)


def _on_disk(tensor: Any, directory: Path) -> Any:
    """A copy of `tensor` in a file, which the kernel can evict from memory. The file exists as long as the copy.

    Raises:
        OSError: the disk is full. Without reserving the space first, writing a page would kill the process.
    """
    import torch

    with tempfile.NamedTemporaryFile(dir=directory) as file:
        os.posix_fallocate(file.fileno(), 0, tensor.nbytes)
        copy = torch.from_file(file.name, shared=True, size=tensor.numel(), dtype=tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor)
