"""The adapter merged into a fresh copy of its base model, for whoever wants to serve one model without PEFT."""

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
from sftjob_contract.config import Precision
from sftjob_trainer.added_tokens import resize_embedding, rows_for
from sftjob_trainer.card import CARD, Made, model_card
from sftjob_trainer.durable import replace_directory, sync_tree
from sftjob_trainer.merge_proof import MERGED_LOSS, answers, check_agreement, loss_of_merging, read_rows
from sftjob_trainer.model import config_option
from sftjob_trainer.outputs import write_results
from sftjob_trainer.quantized_base import loading_config, save_unquantized
from sftjob_trainer.start import ADAPTER_CONFIG
from sftjob_trainer.tokenization import new_tokens

logger = logging.getLogger(__name__)

_SHARD: Final = "2GB"


def merge(base: Path, made: Made, volume: Path) -> Mapping[str, float]:
    """Write `output/merged`: the model in `base` with the published adapter merged in, its tokenizer and a card.

    The base is loaded anew, on the CPU and as it lies on the disk: one that was quantized for training would keep the
    quantization's errors. Its files are mapped, not read, and changed weights go to files as well, so that memory is
    needed for a few of them at a time, however large the model; not with another `mergeDtype` than the base's.

    Returns:
        The evaluation loss of what was written, where rows were held out.

    Raises:
        Failure: what was written, loaded again, does not compute what base and adapter do.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    gc.collect()  # the trained model, which nobody refers to any more
    adapter = volume / layout.OUTPUT_ADAPTER
    target = volume / layout.OUTPUT_MERGED
    staging = target.with_name(f".{target.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    options = {"trust_remote_code": made.config.model.trust_remote_code}
    model = _loaded(base, made, options)
    untie(model, json.loads((adapter / ADAPTER_CONFIG).read_bytes()))
    adapted = PeftModel.from_pretrained(model, str(adapter))
    rows, held_out = read_rows(volume)
    unmerged = answers(adapted, rows)
    with adapted.disable_adapter():
        untrained = answers(adapted, rows[: unmerged.rows])
    rows = rows[: untrained.rows]
    if untrained.rows < unmerged.rows:
        unmerged = answers(adapted, rows)
    staging.mkdir(parents=True)
    _merge_layers(adapted, staging)
    with warnings.catch_warnings(action="ignore"):  # PEFT says of each layer that it is merged already
        merged = adapted.merge_and_unload(safe_merge=True)
    merged.save_pretrained(staging, max_shard_size=_SHARD)
    del adapted, merged, model
    gc.collect()
    again = AutoModelForCausalLM.from_pretrained(staging, dtype="auto", **options)
    found = answers(again, rows)
    check_agreement(unmerged, found, again.dtype)
    lost = loss_of_merging(untrained.loss, unmerged.loss, found.loss, again.dtype) if rows else None
    if lost is not None:
        logger.warning("%s", lost)
    measured = {MERGED_LOSS: found.loss} if held_out and rows else {}
    told = replace(made, metrics={**made.metrics, **measured}, note=lost)
    _finish(adapter, staging, target, model_card(told, layout.OUTPUT_MERGED))
    write_results(told.metrics, volume)
    logger.info(
        "merged the adapter into its base model: %s, which computes what both do on %d rows",
        layout.OUTPUT_MERGED,
        len(rows),
    )
    return measured


def _loaded(base: Path, made: Made, options: Mapping[str, Any]) -> Any:
    """The model in `base` with its positions scaled, and with rows for added tokens."""
    from transformers import AutoModelForCausalLM

    config, wanted = made.config, made.config.output.merge_dtype
    stored = loading_config(base, config, Precision.FP32)
    given = {"dtype": "auto" if wanted is None else wanted.value, **config_option(stored, base, config.model)}
    model = AutoModelForCausalLM.from_pretrained(base, **given, **options)
    if stored is not None:
        save_unquantized(model)
    resize_embedding(model, rows_for(new_tokens(base, config.model).values()), config.training.seed)
    return model


def _finish(adapter: Path, staging: Path, target: Path, card: str) -> None:
    """Add tokenizer and card, and let the whole appear at once."""
    shutil.copytree(
        adapter, staging, ignore=shutil.ignore_patterns("adapter_*"), copy_function=shutil.copyfile, dirs_exist_ok=True
    )
    (staging / CARD).write_text(card, encoding="utf-8")
    sync_tree(staging)
    replace_directory(staging, target, aside=target.with_name(f".{target.name}.replaced"))


def untie(model: Any, adapter: Mapping[str, Any]) -> None:
    """Give `model` an output head of its own where it is the embedding and the adapter changes one of the two.

    Training changed only what the adapter names, so merging into weights that both use would change the other too.
    """
    import torch

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or head.weight is not embedding.weight or adapter.get("ensure_weight_tying"):
        return
    names = [name for name, module in model.named_modules() if module is embedding or module is head]
    if not any(_changes(adapter, name) for name in names):
        return
    head.weight = torch.nn.Parameter(embedding.weight.detach().clone(), requires_grad=False)
    for config in {id(one): one for one in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    logger.info("the adapter changes %s, which are tied in the base: the merged model has a head of its own", names)


def _changes(adapter: Mapping[str, Any], name: str) -> bool:
    """Whether an adapter of this config has weights for the layer `name`."""
    targets = adapter.get("target_modules") or []
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(
        name == target or name.endswith(f".{target}") for target in (*targets, *(adapter.get("modules_to_save") or []))
    )


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
