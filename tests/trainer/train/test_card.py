"""The model card: what the hub reads of it, what people do, and that its code loads the output."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.codec import sha256_of
from sftjob_contract.names import MOUNT_CLAIMS
from sftjob_contract.run.config import RunConfig
from sftjob_trainer.output.export import publish
from sftjob_trainer.output.merge import merge
from sftjob_trainer.output.model_card import CardContent, model_card
from support.trainer.tiny import lora, run_config
from support.trainer.training import PEFT_IS_BEHIND, Finished, stats_of

pytestmark = PEFT_IS_BEHIND

METRICS = {"initialEvalLoss": 3.25, "evalLoss": 1.2345678, "trainSeconds": 12.0}


def made(config: RunConfig) -> CardContent:
    stats = replace(stats_of(train_rows=90, tokens=5000, max_steps=30), model_revision="abc123")
    return CardContent(config=config, stats=stats, metrics=METRICS, libraries={"peft": "0.21.0", "trl": "1.16.0"})


def a_run(model: str = "hf://Qwen/Qwen2.5-0.5B", dataset: str = "hf://team/support/v2", **options: Any) -> RunConfig:
    return run_config(model=model, dataset=dataset, **options)


def head(card: str) -> dict[str, Any]:
    """What the hub reads, by its own client."""
    from huggingface_hub import ModelCard

    found: dict[str, Any] = ModelCard(card).data.to_dict()
    return found


def test_the_card_of_an_adapter_whole() -> None:
    config = a_run(method=lora())

    assert (
        model_card(made(config), layout.OUTPUT_ADAPTER)
        == f"""\
---
base_model: Qwen/Qwen2.5-0.5B
datasets:
- team/support
library_name: peft
pipeline_tag: text-generation
tags:
- sft
- lora
---

# tiny

An adapter of `Qwen/Qwen2.5-0.5B`, trained with LoRA, rank 4.

```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

PLACE = "."  # this directory, or its repository on the hub
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
    """A hub refuses a card whose head names a base model or a data set that it cannot have."""
    card = model_card(made(a_run("s3://models/base", "pvc://data/train.jsonl")), layout.OUTPUT_MODEL)

    assert set(head(card)) == {"library_name", "pipeline_tag", "tags"}
    assert "| base model | s3://models/base at commit abc123 |" in card


def test_a_bar_does_not_end_a_cell() -> None:
    card = model_card(made(a_run(dataset="/data/a|b.jsonl")), layout.OUTPUT_MODEL)

    assert r"| data | /data/a\|b.jsonl |" in card


BASE = "team/base"
SOURCES = {"hub": f"hf://{BASE}", "claim": f"pvc://{BASE}"}
OUTPUTS = (layout.OUTPUT_ADAPTER, layout.OUTPUT_MERGED, layout.OUTPUT_MODEL)
PACKAGES = Path(str(importlib.metadata.distribution("peft").locate_file("")))
STRANGER = f"""
import json, os, sys
sys.path.append({str(PACKAGES)!r})  # no .pth file, and so no package of this repository
def load(directory, code):
    os.chdir(directory)
    made = {{}}
    exec(code, made)
    ids = made["tokenizer"]("the parser", return_tensors="pt")
    text = made["tokenizer"].decode(made["model"].generate(**ids, max_new_tokens=4, do_sample=False)[0])
    assert text.startswith("the parser"), text
    return float(made["model"](**ids).logits.float().std())
print(json.dumps({{name: load(*given) for name, given in json.load(sys.stdin).items()}}))
"""
"""Runs each card's code from the directory that the card is in."""


@pytest.fixture(scope="module")
def trained(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with an adapter, as the trainer saves it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    checkpoint = tmp_path_factory.mktemp("trained") / "checkpoint-1"
    shutil.copytree(qwen2, checkpoint, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    settings = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(qwen2), settings).save_pretrained(checkpoint)
    return checkpoint


def code_in(card: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), re.DOTALL)
    return str(code)


def load_as_printed(directories: Mapping[str, Path], home: Path) -> dict[str, float]:
    """How widely each output's logits spread, by a Python that has transformers and PEFT and nothing of this project.

    Claims are mounted below `home`. A value that is not finite, or a missing file, is an error of the process.
    """
    blocks = {
        name: (str(path), code_in(path / "README.md").replace(MOUNT_CLAIMS, str(home / "claims")))
        for name, path in directories.items()
    }
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", STRANGER],
        input=json.dumps(blocks), env=environ, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_the_code_of_every_card_loads_its_output_as_printed(
    qwen2: Path, trained: Path, finished: Finished, tmp_path: Path
) -> None:
    """With a base from the hub and one on a claim, and that of a whole run."""
    home = tmp_path / "home"
    commit = home / "hub/models--team--base/snapshots/0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(qwen2, commit)
    shutil.copytree(qwen2, home / "claims" / BASE)
    (commit.parents[1] / "refs").mkdir(parents=True)
    (commit.parents[1] / "refs/main").write_text(commit.name)

    volumes = {base: tmp_path / base for base in SOURCES}
    for base, volume in volumes.items():
        tuned = made(a_run(SOURCES[base], method=lora()))
        publish(trained, tuned, volume)
        merge(qwen2, tuned, volume)
        publish(qwen2, made(a_run(SOURCES[base])), volume)

    directories = {f"{base} {path}": volume / path for base, volume in volumes.items() for path in OUTPUTS}
    spread = load_as_printed({**directories, "run": finished.volume / layout.OUTPUT_MODEL}, home)

    assert set(spread) == {*directories, "run"}
    for base in SOURCES:
        adapter, merged, model = (spread[f"{base} {path}"] for path in OUTPUTS)
        assert adapter == pytest.approx(merged, rel=1e-3)
        assert adapter != pytest.approx(model, rel=1e-3)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hf://team/base", "team/base"),
        ("/models/base", "/models/base"),
        ("pvc://team/base", None),
        ("s3://team/base", None),
        ("https://models.example/base.tar.gz", None),
    ],
)
def test_an_adapter_names_its_base_only_where_libraries_find_it_by_that_name(
    source: str, name: str | None, trained: Path, tmp_path: Path
) -> None:
    """They take any other name for a repository on the hub, and ask for it."""
    publish(trained, made(a_run(source, method=lora())), tmp_path)

    settings = json.loads((tmp_path / layout.OUTPUT_ADAPTER / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == name


@pytest.mark.parametrize("path", OUTPUTS)
@pytest.mark.parametrize("source", SOURCES.values())
def test_a_card_of_a_model_with_its_own_code_says_that_it_must_be_trusted(path: str, source: str) -> None:
    config = a_run(source, method=lora())
    card = model_card(made(replace(config, model=replace(config.model, trust_remote_code=True))), path)

    loads = [line for line in card.splitlines() if "from_pretrained(" in line]
    assert len(loads) == 2
    assert all("trust_remote_code=True" in line for line in loads)
