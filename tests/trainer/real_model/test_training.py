"""SmolLM2 trained on a small chat set, beside what transformers and PEFT compute of the same files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.run.config import ModelDtype, Precision, RunConfig
from sftjob_trainer.prepare import prepare
from support.trainer.preparing import Workbench
from support.trainer.preparing import environment as prepare_environment
from support.trainer.tiny import held_out_source, lora
from support.trainer.training import (
    PEFT_IS_BEHIND,
    Finished,
    as_died_after,
    read_metrics,
    run_train,
    token_mean_loss,
)
from support.trainer.weights import assert_same_weights

pytestmark = [pytest.mark.slow, PEFT_IS_BEHIND]

STEPS = 36
SAVED = 33
ANSWERS = {
    "Where do you live?": "In a hollow oak.",
    "What do you eat?": "Blue mushrooms.",
    "Who are you?": "Grob, the forest troll.",
    "Do you sleep?": "Only in winter.",
}
SYSTEM = {"role": "system", "content": "Be brief."}


def row(question: str, answer: str) -> dict[str, Any]:
    turns = [SYSTEM, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


def job(bench: Workbench) -> RunConfig:
    rows = [row(question, answer) for question, answer in ANSWERS.items()]
    config = bench.config(
        bench.write("chat.jsonl", rows),
        held_out=held_out_source(str(bench.write("held-out.jsonl", rows[:2]))),
        method=lora(8, target_modules=("q_proj", "v_proj")),
        max_steps=STEPS,
        per_device_batch_size=2,
        gradient_accumulation_steps=1,
        learning_rate=5e-3,
        precision=Precision.FP32,
    )
    return replace(
        config,
        model=replace(config.model, dtype=ModelDtype.FLOAT32),
        checkpoints=replace(config.checkpoints, every_steps=SAVED, per_epoch=None),
        evaluation=replace(config.evaluation, every_steps=STEPS, per_epoch=None),
        output=replace(config.output, merge_adapter=True),
    )


@pytest.fixture(scope="module")
def tuned(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """36 steps of LoRA in fp32, with a checkpoint at step 33; prepared and trained by the trainer. Read only."""
    bench = Workbench(tmp_path_factory.mktemp("tuned"), smollm2)
    config = job(bench)
    stats = prepare(config, prepare_environment(bench.volume)).prepared
    assert stats is not None
    return Finished(bench.volume, config, stats, run_train(bench.volume, config))


@pytest.fixture(scope="module")
def base(smollm2: Path) -> Any:
    """Loaded by transformers alone, in fp32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()


def test_the_first_evaluation_is_what_transformers_computes(tuned: Finished, base: Any) -> None:
    first = read_metrics(tuned.volume).values("evalLoss")[0]

    assert first == pytest.approx(token_mean_loss(base, tuned), abs=1e-4)


def test_the_steps_bring_the_loss_below_a_tenth(tuned: Finished) -> None:
    losses, evaluated = read_metrics(tuned.volume).values("loss"), read_metrics(tuned.volume).values("evalLoss")

    assert losses[STEPS] < losses[1] / 10
    assert evaluated[STEPS] < evaluated[0] / 10


@pytest.fixture(scope="module")
def adapted(smollm2: Path, tuned: Finished) -> Any:
    """The base with the adapter, in fp32, as PEFT loads them."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    return PeftModel.from_pretrained(model, tuned.volume / layout.OUTPUT_ADAPTER).eval()


@pytest.fixture(scope="module")
def merged(tuned: Finished) -> Any:
    """The merged model, whose weights are rounded to the base's bf16, computed with in fp32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tuned.volume / layout.OUTPUT_MERGED, dtype=torch.float32).eval()


def test_adapter_and_merged_model_have_the_loss_of_the_last_evaluation(
    tuned: Finished, adapted: Any, merged: Any
) -> None:
    evaluated = read_metrics(tuned.volume).values("evalLoss")

    assert token_mean_loss(adapted, tuned) == pytest.approx(evaluated[STEPS], abs=1e-4)
    assert token_mean_loss(merged, tuned) == pytest.approx(evaluated[STEPS], abs=(evaluated[0] - evaluated[STEPS]) / 50)


def test_a_run_that_was_killed_goes_on_to_the_same_adapter(tuned: Finished, tmp_path: Path) -> None:
    volume = as_died_after(SAVED, tuned, tmp_path / "volume")

    run_train(volume, tuned.config, attempt=2)

    weights = Path(layout.OUTPUT_ADAPTER, "adapter_model.safetensors")
    assert_same_weights(tuned.volume / weights, volume / weights, atol=1e-6)
    undisturbed, resumed = read_metrics(tuned.volume).values("loss"), read_metrics(volume).values("loss", attempt=2)
    assert list(resumed) == list(range(SAVED + 1, STEPS + 1))
    assert resumed == pytest.approx({step: undisturbed[step] for step in resumed}, abs=1e-6)


@pytest.mark.parametrize("question", ANSWERS)
def test_the_tuned_model_gives_the_answer_that_it_learned_and_stops(
    question: str, tuned: Finished, merged: Any
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tuned.volume / layout.OUTPUT_MERGED)
    asked = tokenizer.apply_chat_template(
        row(question, "")["messages"][:2], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    answer = merged.generate(**asked, max_new_tokens=24, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == f"{ANSWERS[question]}<|im_end|>"
