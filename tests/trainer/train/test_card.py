"""The model card: what the hub reads of it, and what people do."""

from dataclasses import replace
from typing import Any

import pytest
import yaml

from sftjob_contract import layout
from sftjob_contract.codec import sha256_of
from sftjob_contract.config import RunConfig
from sftjob_trainer.card import Made, model_card
from support.tiny import lora, run_config
from support.training import stats_of

METRICS = {"initialEvalLoss": 3.25, "evalLoss": 1.2345678, "trainSeconds": 12.0}


def made(config: RunConfig) -> Made:
    stats = replace(stats_of(train_rows=90, tokens=5000, max_steps=30), model_revision="abc123")
    return Made(config=config, stats=stats, metrics=METRICS, libraries={"peft": "0.21.0", "trl": "1.16.0"})


def a_run(model: str = "hf://Qwen/Qwen2.5-0.5B", dataset: str = "hf://team/support/v2", **options: Any) -> RunConfig:
    return run_config(model=model, dataset=dataset, **options)


def head(card: str) -> dict[str, Any]:
    _, text, _ = card.split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_the_card_of_an_adapter_whole() -> None:
    config = a_run(method=lora())

    assert (
        model_card(made(config), layout.OUTPUT_ADAPTER)
        == f"""\
---
library_name: peft
base_model: Qwen/Qwen2.5-0.5B
datasets:
- team/support
pipeline_tag: text-generation
tags:
- sft
- lora
---

# tiny

An adapter of `Qwen/Qwen2.5-0.5B`, trained with LoRA, rank 4.

`PLACE` is this repository or directory:

```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained(PLACE)
tokenizer = AutoTokenizer.from_pretrained(PLACE)
```

## Results

| metric | value |
| --- | --- |
| initialEvalLoss | 3.25 |
| evalLoss | 1.23457 |
| trainSeconds | 12 |

## Made of

| what | which |
| --- | --- |
| base model | Qwen/Qwen2.5-0.5B at commit abc123 |
| data | hf://team/support/v2 |
| fingerprint of the data | made-for-a-test |
| rows, tokens | 90, 5000 |
| optimizer steps | 30 |
| SHA-256 of the run config | {sha256_of(config)} |
| peft | 0.21.0 |
| trl | 1.16.0 |
"""
    )


@pytest.mark.parametrize(
    ("path", "library", "sentence"),
    [
        (layout.OUTPUT_MODEL, "transformers", "Every weight of `Qwen/Qwen2.5-0.5B` was trained."),
        (layout.OUTPUT_MERGED, "transformers", "`Qwen/Qwen2.5-0.5B` with an adapter merged in that was trained with "),
    ],
)
def test_a_whole_model_is_loaded_with_transformers(path: str, library: str, sentence: str) -> None:
    card = model_card(made(a_run(method=lora())), path)

    assert head(card)["library_name"] == library
    assert sentence in card
    assert "AutoModelForCausalLM.from_pretrained(PLACE)" in card
    assert "peft import" not in card


def test_the_head_names_only_what_is_on_a_hub() -> None:
    """A hub refuses a card whose head names a base model or a data set that it can not have."""
    card = model_card(made(a_run("s3://models/base", "pvc://data/train.jsonl")), layout.OUTPUT_MODEL)

    assert set(head(card)) == {"library_name", "pipeline_tag", "tags"}
    assert "| base model | s3://models/base at commit abc123 |" in card


def test_a_bar_does_not_end_a_cell() -> None:
    card = model_card(made(a_run(dataset="/data/a|b.jsonl")), layout.OUTPUT_MODEL)

    assert r"| data | /data/a\|b.jsonl |" in card
