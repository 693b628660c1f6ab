"""A finished job's adapter and merged model, in a Python that has transformers and PEFT and nothing of this project.

The job's trainer processes start as normal Python processes; those of most other tests are forked (support/forking).
"""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sftjob_contract import layout
from support.jobs.small_jobs import a_small_job, phase, reach
from support.servers.hub import Hub
from support.stacks.running_stack import Lab
from support.trainer.tiny import write_model

pytestmark = pytest.mark.slow
NAME = "serving"
BASE = "team/base"
RANK = 8
LAYERS = ["q_proj", "v_proj", "down_proj"]
PROMPT = "the parser returns"
OURS = ("sftjob_contract", "sftjob_operator", "sftjob_trainer", "sftjob_sandbox")
SITE = sysconfig.get_paths()["purelib"]

ALONE = f"""
import sys
from importlib.util import find_spec
sys.path.append({SITE!r})  # without the .pth files that would add this repository
assert [name for name in {OURS!r} if find_spec(name)] == []
"""
AFTER = f"""
import json, torch
tokenizer = AutoTokenizer.from_pretrained(path)
ids = tokenizer({PROMPT!r}, return_tensors="pt")
with torch.no_grad():
    logits = model.eval()(**ids).logits[0]
said = tokenizer.decode(model.generate(**ids, max_new_tokens=12, do_sample=False)[0])
print(json.dumps({{"logits": logits.tolist(), "said": said, "dtype": str(logits.dtype)}}))
"""
UNTUNED = "base"
WAYS = {
    "merged": (
        layout.OUTPUT_MERGED,
        """
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(path)
""",
    ),
    "adapter onto its base": (
        layout.OUTPUT_ADAPTER,
        f"""
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({BASE!r}), path)
""",
    ),
    "adapter, which names its base": (
        layout.OUTPUT_ADAPTER,
        """
from transformers import AutoTokenizer
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained(path)
""",
    ),
}
"""What a stranger writes to load one of the outputs, whose directory is `path`."""


@dataclass(frozen=True)
class Loaded:
    """What a stranger's program found: logits (tokens, vocabulary) of the prompt, and how the text goes on."""

    logits: list[list[float]]
    said: str
    dtype: str


@pytest.fixture(scope="module")
def hub(lab: Lab) -> Iterator[Hub]:
    """A hub with the base model."""
    model = write_model(lab.stack.data / "hub-model")
    with Hub() as hub:
        hub.commit("model", BASE, {path.name: path.read_bytes() for path in model.iterdir()})
        yield hub


@pytest.fixture(scope="module")
def volume(lab: Lab, hub: Hub) -> Path:
    """The volume of a job that tuned the hub's model."""
    lab.apply(
        a_small_job(NAME)
        .model(f"hf://{BASE}")
        .env(HF_ENDPOINT=hub.url)
        .lora(rank=RANK, alpha=16, target_modules=LAYERS)
        .training(max_steps=30, learning_rate=2e-2)
        .output(merge_adapter=True)
    )
    status = reach(lab.cluster, NAME, phase("Succeeded", "Failed"))
    assert status["phase"] == "Succeeded", status["conditions"]
    return lab.stack.volume(NAME)


@pytest.fixture(scope="module")
def loaded(volume: Path, hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Loaded]:
    """Each output, and the base model, as a stranger's program sees it."""
    places = {way: (volume / path, lines) for way, (path, lines) in WAYS.items()}
    places[UNTUNED] = (volume.parents[2] / "hub-model", WAYS["merged"][1])
    told = stranger([f"path = {str(path)!r}\n{lines}" for path, lines in places.values()], hub, tmp_path_factory)
    return dict(zip(places, told, strict=True))


def stranger(programs: list[str], hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> list[Loaded]:
    """Run programs that load a model, one after another in an isolated Python without site directories."""
    home = tmp_path_factory.mktemp("stranger")
    environ = {
        "PATH": os.environ["PATH"],
        "OMP_NUM_THREADS": "1",
        "HOME": str(home),
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home / "hub"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-I", "-S", "-c", ALONE + "".join(program + AFTER for program in programs)]
    done = subprocess.run(command, env=environ, cwd=home, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"logits"')]
    return [Loaded(**json.loads(line)) for line in lines]


@pytest.mark.parametrize("way", list(WAYS))
def test_it_loads_and_generates_without_a_package_of_ours(way: str, loaded: dict[str, Loaded]) -> None:
    said = loaded[way].said
    assert said.startswith(PROMPT)
    assert len(said) > len(PROMPT)
    assert said == loaded["merged"].said


def test_adapter_on_base_and_merged_model_give_the_same_logits(loaded: dict[str, Loaded]) -> None:
    import torch

    merged = torch.tensor(loaded["merged"].logits)
    assert {loaded[way].dtype for way in WAYS} == {"torch.float32"}
    for way in ("adapter onto its base", "adapter, which names its base"):
        torch.testing.assert_close(torch.tensor(loaded[way].logits), merged, rtol=1e-4, atol=1e-4)


def test_the_adapter_does_something(loaded: dict[str, Loaded]) -> None:
    import torch

    change = torch.tensor(loaded[UNTUNED].logits) - torch.tensor(loaded["merged"].logits)
    assert float(change.abs().max()) > 0.1


def test_a_server_finds_base_rank_and_layers_in_the_adapter(volume: Path) -> None:
    """What vLLM and PEFT read: the base by its hub id, numbers and names of layers, no place inside a Pod."""
    text = (volume / layout.OUTPUT_ADAPTER / "adapter_config.json").read_text()
    settings = json.loads(text)
    assert settings["base_model_name_or_path"] == BASE
    assert (settings["peft_type"], settings["task_type"], settings["r"], settings["lora_alpha"]) == (
        *("LORA", "CAUSAL_LM"),
        *(RANK, 16),
    )
    assert sorted(settings["target_modules"]) == sorted(LAYERS)
    assert (settings["bias"], settings["use_dora"], settings["modules_to_save"]) == ("none", False, None)
    assert [value for value in settings.values() if isinstance(value, str) and value.startswith("/")] == []


@pytest.mark.parametrize("output", [layout.OUTPUT_ADAPTER, layout.OUTPUT_MERGED])
def test_no_file_of_the_output_names_a_place_inside_a_pod(output: str, volume: Path, lab: Lab) -> None:
    for path in (volume / output).glob("*.json"):
        text = path.read_text()
        assert str(lab.stack.data) not in text, path.name
        assert "/sftjob" not in text, path.name
