"""The recipes that people bring along, from the samples that they copy to what they look for afterwards.

Each sample runs as it is, but for what the table replaces: where model and data lie, sizes, and what a CPU does not
have. The steps, learning rates, checkpoints and files are worked out here again, from the sample's own numbers.
"""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from sftjob_contract import layout
from sftjob_dev.cluster import Cluster
from support.forking import NOT_FORKED
from support.jobs.recipes import (
    Ended,
    Recipe,
    json_lines,
    learning_rates,
    lora_parameters,
    parameters,
    source,
    tensors,
    write_data,
    write_models,
)
from support.jobs.small_jobs import metrics, phase, reach
from support.stacks.running_stack import Lab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first test waits for every job

ROWS = {
    "terraform.jsonl": 320,
    "tasks.jsonl": 500,
    "dolly.jsonl": 2000,
    "train.csv": 320,
    "instructions.jsonl": 100,
    "chat.jsonl": 640,
    "q-code/part-0.jsonl": 200,
    "gsm8k/train.jsonl": 96,
    "gsm8k/test.jsonl": 12,
}
WHY = {
    "model.source": "no hub: a model of the same family with two layers",
    "dataset": "no hub: files of the same columns, the split by name is a file of its own",
    "dataset.source": "no such data: rows of the same form",
    "method.distillation.teacher": "no hub: a model that is wider and has read more",
    "training.maxLength": "size: an eighth, so that rows of a few tokens fill several sequences",
    "training.maxSteps": "size: a tenth",
    "training.warmupSteps": "size: a tenth",
    "training.loggingSteps": "size: as many points of the curve in a shorter run",
    "evaluation.everySteps": "size: as many evaluations in a shorter run",
    "evaluation.maxNewTokens": "size: answers are short",
    "evaluation.maxSamples": "size: few rows are held out",
    "checkpoints.everySteps": "size: as many checkpoints in a shorter run",
    "storage": "size, and no such storage class",
    "resources": "no GPU",
    "scheduling": "no node of that type",
    "training.precision": "no GPU: fp16 needs one",
}
"""Every field that is replaced in a sample, and why; a recipe that needed another one would not be the user's."""
ON_CPU = {"resources": {"gpus": 0, "cpu": "1"}, "storage": {"size": "1Gi"}, "training.loggingSteps": 1}
WAIT_SECONDS = 400
RECIPES = {
    recipe.sample: recipe
    for recipe in (
        Recipe(
            sample="packed-lora",
            replaced={
                **ON_CPU,
                "model.source": source("models/qwen2"),
                "dataset.source": source("terraform.jsonl"),
                "training.maxLength": 128,
            },
        ),
        Recipe(
            sample="qlora",
            replaced={
                **ON_CPU,
                "model.source": source("models/qwen2-instruct"),
                "dataset.source": source("tasks.jsonl"),
                "evaluation.maxNewTokens": 16,
            },
        ),
        Recipe(
            sample="full",
            replaced={
                **ON_CPU,
                "model.source": source("models/llama"),
                "dataset.source": source("dolly.jsonl"),
                "training.maxLength": 128,
                "evaluation.everySteps": 2,
                "checkpoints.everySteps": 4,
                "scheduling": None,
            },
        ),
        Recipe(
            sample="gpt2",
            replaced={
                **ON_CPU,
                "model.source": source("models/gpt2"),
                "dataset.source": source("train.csv"),
            },
        ),
        Recipe(
            sample="qlora-7b",
            replaced={
                **ON_CPU,
                "model.source": source("models/mistral"),
                "dataset.source": source("instructions.jsonl"),
                "training.precision": "fp32",
            },
        ),
        Recipe(
            sample="chatml",
            replaced={
                **ON_CPU,
                "model.source": source("models/qwen2"),
                "dataset.source": source("chat.jsonl"),
            },
        ),
        Recipe(
            sample="distillation",
            replaced={
                **ON_CPU,
                "model.source": source("models/qwen2-instruct"),
                "dataset.source": source("chat.jsonl"),
                "method.distillation.teacher": {"source": source("models/teacher")},
            },
        ),
        Recipe(
            sample="evaluation",
            replaced={
                **ON_CPU,
                "model.source": source("models/qwen2-instruct"),
                "dataset": {
                    "source": source("gsm8k/train.jsonl"),
                    "format": "prompt-completion",
                    "columns": {"prompt": "question", "completion": "answer"},
                    "evaluation": {"source": source("gsm8k/test.jsonl")},
                },
                "evaluation.maxNewTokens": 16,
                "evaluation.maxSamples": 8,
            },
        ),
        Recipe(
            sample="max-steps",
            replaced={
                **ON_CPU,
                "model.source": source("models/qwen2"),
                "dataset.source": source("q-code"),
                "training.maxSteps": 100,
                "training.warmupSteps": 10,
                "evaluation.everySteps": 10,
                "checkpoints.everySteps": 5,
            },
        ),
    )
}
LORA = [name for name, recipe in RECIPES.items() if "lora" in recipe.job.spec["method"]]
FULL = [name for name in RECIPES if name not in LORA]
SEQUENCES = {
    "qlora": 475,  # of 500, the default 5 % held out
    "gpt2": 320,
    "qlora-7b": 95,
    "chatml": 576,
    "distillation": 608,
    "evaluation": 96,
    "max-steps": 190,
}
"""Rows to train on, where each is a sequence."""
STEPS = {
    "qlora": 30,  # ceil(475 / 16)
    "gpt2": 100,  # 5 x 320 / 16
    "qlora-7b": 18,  # 3 x ceil(95 / 16)
    "chatml": 108,  # 3 x 576 / 16
    "distillation": 38,  # 608 / 16
    "evaluation": 18,  # 3 x 96 / 16
    "max-steps": 100,
}
WARMUP = {
    "packed-lora": 0.03,
    "qlora": 0.03,
    "full": 0.03,  # the default
    "gpt2": 0.1,
    "qlora-7b": 0.1,
    "chatml": 0.1,
    "distillation": 0.03,
    "evaluation": 0.03,
}
"""Share of the steps, rounded up."""
DEFAULT_LEARNING_RATE = 2e-4
ROUNDED = 1e-5
"""A status has six digits."""
QLORA_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}
ANSWERS_METRICS = {"evalPerplexity", "evalBleu", "evalRouge1", "evalRouge2", "evalRougeL", "evalExactMatch"}


@pytest.fixture(scope="module")
def ended(lab: Lab) -> dict[str, Ended]:
    """Every job at its end; two at a time, as the machine has two cores."""
    write_data(lab.input / "recipes", ROWS)
    write_models(lab.input / "recipes" / "models")

    def run(recipe: Recipe) -> Ended:
        name = recipe.sample
        needed = any(recipe.at(path) for path in ("tracking.wandb", "method.quantization"))
        lab.apply(recipe.job.env(**{NOT_FORKED: "1"}) if needed else recipe.job)  # forked trainers lack the packages
        status = reach(Cluster(lab.stack.kubeconfig), name, phase("Succeeded", "Failed"), seconds=WAIT_SECONDS)
        assert status["phase"] == "Succeeded", f"{name}: {json.dumps(status['conditions'], indent=2)}"
        return Ended(recipe, status, lab.stack.volume(name), metrics(lab.stack, name), SEQUENCES.get(name))

    with ThreadPoolExecutor(2) as pool:
        return {job.recipe.sample: job for job in pool.map(run, RECIPES.values())}


@pytest.fixture(params=list(RECIPES))
def job(request: pytest.FixtureRequest, ended: dict[str, Ended]) -> Ended:
    """Each of them."""
    return ended[request.param]


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_sample_is_changed_only_where_there_is_a_reason(name: str) -> None:
    recipe = RECIPES[name]
    assert set(recipe.replaced) <= set(WHY)
    published = recipe.published
    assert all(published.set(path, value).spec != published.spec for path, value in recipe.replaced.items())


def test_it_takes_the_steps_of_the_formula(job: Ended) -> None:
    name = job.recipe.sample
    progress, plan = job.status["progress"], job.status["plan"]
    if name in STEPS:
        assert job.steps == STEPS[name]
    assert plan["sequences"] == job.sequences
    assert plan["steps"] == progress["maxSteps"] == progress["step"] == job.steps
    assert sorted(job.values("loss")) == list(range(1, job.steps + 1))


def test_packing_puts_several_rows_into_a_sequence_and_loses_none(ended: dict[str, Ended]) -> None:
    from datasets import load_from_disk

    for name, rows in (("packed-lora", 304), ("full", 1900)):
        prepared = load_from_disk(ended[name].volume / layout.PREPARED_TRAIN)
        lengths = [length for row in prepared for length in row["seq_lengths"]]
        assert ended[name].status["plan"]["trainRows"] == len(lengths) == rows
        assert max(len(row["input_ids"]) for row in prepared) <= 128
        assert len(prepared) <= rows / 2
        assert sum(lengths) == sum(len(row["input_ids"]) for row in prepared) == ended[name].status["plan"]["tokens"]


def test_its_learning_rate_warms_up_to_the_peak_and_falls_to_zero(job: Ended) -> None:
    recipe = job.recipe
    peak = recipe.at("training.learningRate", DEFAULT_LEARNING_RATE)
    ratio = WARMUP.get(recipe.sample)
    warmup = recipe.at("training.warmupSteps") if ratio is None else math.ceil(ratio * job.steps)
    expected = learning_rates(recipe.at("training.scheduler", "cosine"), peak, warmup, job.steps)
    found = job.values("learningRate")
    assert [found[step] for step in sorted(found)] == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert max(found.values()) == found[warmup + 1] == pytest.approx(peak)


def test_it_learns(job: Ended) -> None:
    found = job.status["output"]["metrics"]
    losses = job.values("loss")
    tenth = max(1, job.steps // 10)
    first = sum(losses[step] for step in range(1, tenth + 1)) / tenth
    last = sum(losses[step] for step in range(job.steps - tenth + 1, job.steps + 1)) / tenth
    assert last < 0.98 * first
    if job.status["plan"]["evaluationRows"]:
        assert found["evalLoss"] < 0.98 * found["initialEvalLoss"]


def test_lora_trains_its_share_of_the_weights_and_no_more(ended: dict[str, Ended]) -> None:
    for name in LORA:
        job, lora = ended[name], RECIPES[name].job.spec["method"]["lora"]
        given = lora.get("targetModules", ["all-linear"])
        layers = QLORA_LAYERS if given == ["all-linear"] else given
        expected = lora_parameters(job.base, lora.get("rank", 16), layers)
        assert parameters(job.output) == expected, name
        assert job.status["plan"]["trainableParameters"] == expected, name
        assert job.status["plan"]["parameters"] == parameters(job.base), name
        assert all(float(values.abs().max()) > 0 for key, values in tensors(job.output) if "lora_B" in key), name


def test_an_adapter_names_its_rank_and_layers_and_no_base_on_a_claim(ended: dict[str, Ended]) -> None:
    for name in LORA:
        lora = RECIPES[name].job.spec["method"]["lora"]
        settings = json.loads((ended[name].output / "adapter_config.json").read_text())
        given = lora.get("targetModules", ["all-linear"])
        assert RECIPES[name].at("model.source").startswith("pvc://"), name
        assert settings["base_model_name_or_path"] is None, name
        assert (settings["r"], settings["lora_alpha"]) == (lora.get("rank", 16), lora.get("alpha", 32)), name
        adapted = {layer.rpartition(".")[2] for layer in settings["target_modules"]}
        assert adapted == set(QLORA_LAYERS if given == ["all-linear"] else given), name
        assert [value for value in settings.values() if isinstance(value, str) and value.startswith("/")] == [], name


def test_full_fine_tuning_moves_every_weight(ended: dict[str, Ended]) -> None:
    for name in FULL:
        job = ended[name]
        before, after = dict(tensors(job.base)), dict(tensors(job.output))
        assert before.keys() == after.keys()
        assert job.status["plan"]["trainableParameters"] == job.status["plan"]["parameters"] == parameters(job.base)
        assert [key for key, values in after.items() if bool((values == before[key]).all())] == [], name


def test_its_files_are_where_people_look(job: Ended) -> None:
    files = {path.name for path in job.output.iterdir()}
    assert files >= TOKENIZER
    if job.recipe.sample in LORA:
        assert files >= {"adapter_config.json", "adapter_model.safetensors"}
    else:
        assert files >= {"config.json", "model.safetensors"}
    assert job.status["output"]["uri"] == f"pvc://{job.recipe.sample}/{job.output.relative_to(job.volume)}"
    for path in (layout.TRAIN_LOG, layout.METRICS, layout.RUN_CONFIG, layout.PREPARED_EXAMPLES):
        assert (job.volume / path).stat().st_size > 0, path
    results = json.loads((job.volume / layout.EVAL_RESULTS).read_text())
    assert job.status["output"]["metrics"] == pytest.approx(results, rel=ROUNDED)


def checkpoint_steps(job: Ended) -> list[int]:
    listed = [checkpoint["step"] for checkpoint in job.status["checkpoints"]]
    manifests = (job.volume / layout.CHECKPOINTS).glob(f"checkpoint-*/{layout.MANIFEST}")
    assert sorted(listed) == sorted(int(path.parent.name.rpartition("-")[2]) for path in manifests)
    return sorted(listed)


def test_a_checkpoint_is_taken_at_the_end_of_each_epoch(ended: dict[str, Ended]) -> None:
    for name in ("packed-lora", "qlora-7b", "chatml", "evaluation"):
        job = ended[name]
        assert checkpoint_steps(job) == [job.steps // 3, 2 * job.steps // 3, job.steps], name
    assert checkpoint_steps(ended["gpt2"]) == [60, 80, 100]  # of five, the newest three are kept


def test_a_checkpoint_is_taken_every_so_many_steps_and_after_the_last(ended: dict[str, Ended]) -> None:
    assert checkpoint_steps(ended["max-steps"]) == list(range(5, 101, 5))
    full = ended["full"]
    taken = [step for step in range(1, full.steps + 1) if step % 4 == 0 or step == full.steps]
    assert checkpoint_steps(full) == taken[-2:]


def test_its_curves_wait_on_the_volume_to_be_synced(ended: dict[str, Ended]) -> None:
    job = ended["max-steps"]
    (run,) = (job.volume / layout.WANDB).glob("offline-run-*")
    (records,) = run.glob("run-*.wandb")
    found = records.read_bytes()
    assert b"q-lora-rank-16" in found
    assert found.count(b"train/loss") >= job.steps
    assert not any((other.volume / layout.WANDB).exists() for name, other in ended.items() if name != "max-steps")


def test_it_is_evaluated_before_training_in_between_and_after_the_last_step(ended: dict[str, Ended]) -> None:
    full = ended["full"]
    assert sorted(full.values("evalLoss")) == sorted({*range(0, full.steps, 2), full.steps})
    assert sorted(ended["max-steps"].values("evalLoss")) == list(range(0, 101, 10))
    assert sorted(ended["evaluation"].values("evalLoss")) == list(range(0, 19, 3))
    assert sorted(ended["chatml"].values("evalLoss")) == [0, 36, 72, 108]
    assert ended["gpt2"].values("evalLoss") == {}


def test_the_untrained_and_the_trained_model_answer_the_same_prompts(ended: dict[str, Ended]) -> None:
    for name in ("qlora", "evaluation"):
        job = ended[name]
        prompts = job.recipe.at("evaluation.samplePrompts")
        answered = json_lines(job.volume / layout.SAMPLES)
        asked = [(step, prompt) for step in (0, job.steps) for prompt in prompts]
        assert [(line["step"], line["prompt"]) for line in answered] == asked
        before, after = ([line["answer"] for line in answered if line["step"] == step] for step in (0, job.steps))
        assert before != after


def test_answers_to_held_out_questions_are_measured_at_each_evaluation_and_kept(ended: dict[str, Ended]) -> None:
    job = ended["evaluation"]
    found = job.status["output"]["metrics"]
    assert found.keys() >= ANSWERS_METRICS
    assert found["evalPerplexity"] == pytest.approx(math.exp(found["evalLoss"]), rel=ROUNDED)
    assert all(sorted(job.values(name)) == list(range(0, 19, 3)) for name in ANSWERS_METRICS)
    predictions = json_lines(job.volume / layout.PREDICTIONS)
    held_out = json_lines(job.volume.parent / "input" / "recipes" / "gsm8k" / "test.jsonl")[:8]
    assert [line["reference"] for line in predictions] == [row["answer"] for row in held_out]
    asked = "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    assert [line["prompt"] for line in predictions] == [asked.format(**row) for row in held_out]
    same = [line["prediction"].strip() == line["reference"].strip() for line in predictions]
    assert found["evalExactMatch"] == pytest.approx(sum(same) / len(same))


def test_chatml_reaches_a_model_that_had_no_template_and_is_left_with_it(ended: dict[str, Ended]) -> None:
    from transformers import AutoTokenizer

    job = ended["chatml"]
    assert AutoTokenizer.from_pretrained(job.base).chat_template is None
    tokenizer = AutoTokenizer.from_pretrained(job.output)
    conversation = [{"role": "user", "content": "open a file"}, {"role": "assistant", "content": "return"}]
    assert tokenizer.apply_chat_template(conversation, tokenize=False).startswith(
        "<|im_start|>user\nopen a file<|im_end|>\n<|im_start|>assistant\nreturn<|im_end|>"
    )
    assert 0 < job.status["plan"]["trainedTokens"] < job.status["plan"]["tokens"]


def test_a_text_with_marks_of_its_own_is_trained_as_a_whole(ended: dict[str, Ended]) -> None:
    plan = ended["full"].status["plan"]
    assert plan["rows"] == 2000
    assert plan["evaluationRows"] == 100
    assert plan["trainedTokens"] >= plan["tokens"] - plan["trainRows"]  # but for the first token of a row


def test_the_teacher_is_not_changed_and_not_in_the_output(ended: dict[str, Ended]) -> None:
    job = ended["distillation"]
    teacher = job.base.parent / "teacher"
    assert parameters(teacher) > 2 * parameters(job.output)
    assert parameters(job.output) == parameters(job.base)


def test_the_merged_model_lies_besides_the_adapter(ended: dict[str, Ended]) -> None:
    for name, job in ended.items():
        merged = job.volume / layout.OUTPUT_MERGED
        assert merged.exists() == (name == "qlora-7b"), name
    job = ended["qlora-7b"]
    merged = job.volume / layout.OUTPUT_MERGED
    assert {key for key, _ in tensors(merged)} == {key for key, _ in tensors(job.base)}
    assert {path.name for path in merged.iterdir()} >= {"config.json", *TOKENIZER}
