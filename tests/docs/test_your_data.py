"""docs/your-data.md: the Python block loads an adapter, and its two Pods are valid under restricted Pod security."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from support.checks.kube_schemas import create_refusals
from support.checks.pod_security import violations
from support.jobs.doc_blocks import ROOT, runnable_by
from support.trainer.tiny import write_model

PAGE = "docs/your-data.md"
BLOCKS = runnable_by(__file__)


def objects(name: str) -> list[dict[str, Any]]:
    """The objects of a manifest, in a namespace as after `kubectl apply`."""
    found = list(yaml.safe_load_all((ROOT / "examples" / name).read_text(encoding="utf-8")))
    return [{**body, "metadata": {**body["metadata"], "namespace": "team"}} for body in found]


@pytest.mark.parametrize("name", ["copy-pod.yaml", "fetch-pod.yaml"])
def test_the_pod_is_valid_and_may_run_in_a_restricted_namespace(name: str) -> None:
    for body in objects(name):
        assert create_refusals(body) == []
        assert body["kind"] == "PersistentVolumeClaim" or violations(body) == []


def test_the_claims_are_those_of_the_sample_that_the_page_runs() -> None:
    sample = yaml.safe_load((ROOT / "crds/samples/minimal.yaml").read_text(encoding="utf-8"))
    claim, copy = objects("copy-pod.yaml")
    (fetch,) = objects("fetch-pod.yaml")
    mounted = [pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] for pod in (copy, fetch)]
    assert mounted == [claim["metadata"]["name"], sample["metadata"]["name"]]
    assert sample["spec"]["dataset"]["source"] == f"pvc://{claim['metadata']['name']}/train.jsonl"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_python_block_loads_an_adapter_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, adapter = write_model(tmp_path / "base"), tmp_path / "adapter"
    settings = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(adapter)
    AutoTokenizer.from_pretrained(base).save_pretrained(adapter)
    monkeypatch.chdir(tmp_path)

    (block,) = BLOCKS
    assert (block.document, block.language) == (PAGE, "python")
    variables: dict[str, Any] = {}
    exec(block.text, variables)

    assert type(variables["model"]).__name__ == "PeftModelForCausalLM"
    assert variables["tokens"].shape[1] > variables["prompt"]["input_ids"].shape[1]
    answer = variables["tokens"][0, variables["prompt"]["input_ids"].shape[1] :]
    assert capsys.readouterr().out == variables["tokenizer"].decode(answer, skip_special_tokens=True) + "\n"
