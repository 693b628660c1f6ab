"""docs/concepts.md: every number is what the trainer, the plan, TRL, transformers or PyTorch computes."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.run.config import PackingStrategy
from sftjob_operator.plan import trainable_parameters
from sftjob_trainer.rows.steps import max_steps, steps_per_epoch
from support.jobs.doc_blocks import ROOT
from support.jobs.model_shapes import QWEN_05B
from tools.figures import concepts, worked_examples

PAGE = ROOT / "docs/concepts.md"
TEXT = PAGE.read_text(encoding="utf-8")
NOT_TRAINED = -100


def section(heading: str) -> str:
    """The text below a heading, on one line."""
    return " ".join(TEXT.split(f"\n## {heading}\n")[1].partition("\n## ")[0].split())


def rows(heading: str) -> list[list[str]]:
    """Cells of every table row of a section, without backticks."""
    text = TEXT.split(f"\n## {heading}\n")[1].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


def test_how_steps_are_counted() -> None:
    counted, training = worked_examples.steps(), worked_examples.config().training
    fraction = worked_examples.config().dataset.evaluation.fraction
    micro, accumulation = training.per_device_batch_size, training.gradient_accumulation_steps
    batch = micro * accumulation
    of_step = f"perDeviceBatchSize ({micro}) x GPUs (1) x gradientAccumulationSteps ({accumulation})"
    shown = {name: (how, value) for name, how, value in rows("How steps are counted") if name}
    assert shown == {
        "rows": ("", f"{worked_examples.ROWS:,}"),
        "held out": (f"2,000 x dataset.evaluation.fraction ({fraction})", f"{counted.held_out}"),
        "trained": (f"2,000 - {counted.held_out}", f"{counted.trained:,}"),
        "rows in one step": (of_step, f"{batch}"),
        "micro-batches of an epoch": (f"1,900 / {micro}", f"{counted.micro_batches}"),
        "steps of an epoch": (f"1,900 / {batch} = {counted.trained / batch}, rounded up", f"{counted.per_epoch}"),
        "rows in the last step of an epoch": (f"1,900 - {counted.per_epoch - 1} x {batch}", f"{counted.last}"),
        "steps of the run": (f"{counted.per_epoch} x epochs ({training.epochs:g})", f"{counted.total}"),
    }


def test_steps_on_several_gpus_and_with_packing() -> None:
    text = section("How steps are counted")
    two, four = (worked_examples.steps(gpus=gpus).total for gpus in (2, 4))
    packed = worked_examples.steps(sequences=300)
    assert f"With 2 GPUs a step has 32 rows, and the run {two} steps; with 4 GPUs, {four}." in text
    assert f"into 300 sequences, an epoch has {packed.per_epoch} steps, and the run {packed.total}." in text
    assert "`training.globalBatchSize: 16` keeps 16 rows and 357 steps on 1, 2 or 4 GPUs" in text
    for gpus in (1, 2, 4):
        training = worked_examples.config({"globalBatchSize": 16}, gpus=gpus).training
        per_epoch = steps_per_epoch(worked_examples.steps().trained, training, gpus)
        assert (training.per_device_batch_size * training.gradient_accumulation_steps * gpus) == 16
        assert max_steps(per_epoch, training) == 357


def word_tokenizer(*words: str) -> Any:
    """A tokenizer in which each word is a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(["<unk>", *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>")


def test_labels_are_the_answer_and_its_end() -> None:
    from sftjob_trainer.rows.examples import PromptCompletion
    from sftjob_trainer.tokens.labels import encoder

    tokenizer = word_tokenizer(*concepts.SHIFT_TOKENS)
    found = re.search(r'`\{"prompt": "(.*?)", "completion": "(.*?)"\}` has (\d) tokens .* and (\d) of them', section(
        "Inputs and labels are shifted by one"
    ))  # fmt: skip
    assert found is not None
    (row,) = encoder(tokenizer, worked_examples.config())([PromptCompletion("row 1", found[1], found[2])])
    assert tuple(tokenizer.convert_ids_to_tokens(row.input_ids)) == concepts.SHIFT_TOKENS
    trained = [label for label in row.labels if label != NOT_TRAINED]
    assert row.labels == [NOT_TRAINED] * concepts.SHIFT_PROMPT + row.input_ids[concepts.SHIFT_PROMPT :]
    assert [len(row.labels), len(trained)] == [int(found[3]), int(found[4])]


def test_a_prediction_is_compared_with_the_label_of_the_next_token() -> None:
    import torch
    from transformers.loss.loss_utils import ForCausalLMLoss

    ids = torch.tensor([[1, 2, 3, 4, 5]])
    labels = torch.tensor([[NOT_TRAINED, NOT_TRAINED, 3, 4, 5]])
    logits = torch.zeros(1, 5, 6)
    for place in (1, 2, 3):  # the prediction at each is the next token
        logits[0, place, ids[0, place + 1]] = 50.0
    assert float(ForCausalLMLoss(logits, labels, vocab_size=6)) == pytest.approx(0.0, abs=1e-6)
    logits[0, 4] = torch.arange(6.0)  # the prediction at the last token is not used
    assert float(ForCausalLMLoss(logits, labels, vocab_size=6)) == pytest.approx(0.0, abs=1e-6)


def test_the_loss_of_a_step_is_divided_by_all_its_labels() -> None:
    import torch
    from transformers.loss.loss_utils import fixed_cross_entropy

    def micro_batch(labels: int, loss: float) -> Any:
        right = -math.log(math.exp(loss) - 1)  # two classes: the loss is log(1 + exp(-right))
        logits = torch.tensor([[right, 0.0]], dtype=torch.float64).repeat(labels, 1)
        return fixed_cross_entropy(logits, torch.zeros(labels, dtype=torch.long), num_items_in_batch=torch.tensor(40))

    step = float(micro_batch(10, 2.0) + micro_batch(30, 1.0))
    text = section("Gradient accumulation or a big batch")
    assert f"(10 x 2.0 + 30 x 1.0) / 40 = {step:.2f}" in text
    assert f"would be {(2.0 + 1.0) / 2}, and would give a label in the short micro-batch three times the weight" in text


def test_packing_puts_rows_together_and_starts_each_without_a_label(tmp_path: Path) -> None:
    import pyarrow as pa
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from sftjob_trainer.tokens.packing import schema, to_dataset

    lengths = (5, 4, 3)
    tokens = [list(range(10 * row, 10 * row + length)) for row, length in enumerate(lengths, start=1)]
    table = pa.table({"input_ids": tokens, "labels": tokens}, schema=schema())
    config = worked_examples.config({"packing": True, "maxLength": 8})
    assert config.training.packing_strategy is PackingStrategy.BFD
    packed = to_dataset(table, config, tmp_path / "packed.arrow")
    assert sorted(packed["seq_lengths"]) == sorted([[5, 3], [4]])
    assert "Three rows of 5, 4 and 3 tokens with `maxLength: 8` become two sequences, of 5 + 3 and of 4" in section(
        "Packing"
    )
    padded = len(lengths) * max(lengths)
    assert f"they would be {padded} tokens, {padded - sum(lengths)} of them padding" in section("Packing")

    (longest,) = [row for row in packed if tuple(row["seq_lengths"]) == concepts.PACKED]
    batch = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)([longest])
    assert batch["position_ids"][0].tolist() == [place for length in concepts.PACKED for place in range(length)]
    first = [index for index, label in enumerate(batch["labels"][0].tolist()) if label == NOT_TRAINED]
    assert first == [0, concepts.PACKED[0]]


def test_the_schedule_is_that_of_transformers() -> None:
    import torch
    from transformers import get_scheduler

    training, counted = worked_examples.config().training, worked_examples.steps()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=training.learning_rate)
    scheduler = get_scheduler(training.scheduler.value, optimizer, counted.warmup, counted.total)
    rates = []
    for _ in range(counted.total):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert worked_examples.learning_rates() == pytest.approx(rates, abs=1e-12)
    shown = dict(rows("The schedule")[1:])
    assert shown == {step: "0" if rates[int(step) - 1] == 0 else f"{rates[int(step) - 1]:.2e}" for step in shown}
    text = section("The schedule")
    assert f"For the {counted.total} steps above" in text
    assert f"`learningRate: 2e-4` and `warmupRatio: {training.warmup_ratio}`" in text
    assert f"The warmup has {counted.warmup} steps: {training.warmup_ratio:.0%} of {counted.total}" in text.replace(
        "3 %", "3%"
    )


def test_the_formats_of_numbers_are_those_of_pytorch() -> None:
    import torch

    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    shown = {row[0]: row[1:] for row in rows("bf16 and fp16")[1:]}
    assert shown == {
        name: [f"{info.max:.1e}", f"{info.tiny:.1e}", f"1 + {info.eps:.1e}"]
        for name, info in ((name, torch.finfo(kind)) for name, kind in kinds.items())
    }
    for name, (exponent, mantissa) in concepts.FORMATS.items():
        assert 1 + exponent + mantissa == torch.finfo(kinds[name]).bits
        assert torch.finfo(kinds[name]).eps == 2.0**-mantissa
    assert "in bf16, 1 + 0.003 is still 1" in section("bf16 and fp16")
    assert float(torch.tensor(1.0, dtype=torch.bfloat16) + 0.003) == 1.0


def test_the_gpus_with_bf16() -> None:
    from sftjob_trainer.models.hardware import FIRST_WITH_BF16

    assert f"of compute capability {'.'.join(map(str, FIRST_WITH_BF16))} or more" in section("bf16 and fp16")


def trained(rank: int, *modules: str) -> int:
    """Parameters of an adapter on Qwen2.5-0.5B, as the plan counts them."""
    from sftjob_operator.api import parse_job
    from sftjob_operator.render import run_config

    spec = {
        "model": {"source": "hf://Qwen/Qwen2.5-0.5B"},
        "dataset": {"source": "pvc://datasets/train.jsonl"},
        "method": {"lora": {"rank": rank, "targetModules": list(modules)}},
    }
    job = parse_job({"metadata": {"name": "example", "namespace": "docs", "uid": "docs"}, "spec": spec})
    return trainable_parameters(run_config(job).method, QWEN_05B)


def test_the_size_of_a_lora_adapter() -> None:
    shown = rows("The size of a LoRA adapter")
    layers = worked_examples.ATTENTION
    sizes = [worked_examples.lora_parameters(layer) for layer in layers]
    whole = trained(worked_examples.RANK, *(layer.name for layer in layers))
    assert shown[1:7] == [
        *([layer.name, f"{layer.in_features}", f"{layer.out_features}", f"{size:,}"]
          for layer, size in zip(layers, sizes, strict=True)),
        ["one layer", "", "", f"{sum(sizes):,}"],
        [f"{QWEN_05B.layers} layers", "", "", f"{whole:,}"],
    ]  # fmt: skip
    assert sum(sizes) * QWEN_05B.layers == whole
    text = section("The size of a LoRA adapter")
    assert f"A rank-8 adapter on the attention of Qwen2.5-0.5B has {whole:,} parameters." in text
    assert (
        f"has {QWEN_05B.parameters:,} parameters, so this is {whole / (QWEN_05B.parameters + whole):.2%}"
        in text.replace(" %", "%")
    )
    assert f"three weights of {QWEN_05B.hidden_size} x {QWEN_05B.intermediate_size:,}" in text


def test_adapters_of_other_ranks_and_targets() -> None:
    for text, parameters, share in rows("The size of a LoRA adapter")[8:]:
        found = re.match(r"rank: (\d+), targetModules: \[(.*?)\]", text)
        assert found is not None
        count = trained(int(found[1]), *found[2].split(", "))
        assert (parameters, share) == (f"{count:,}", f"{100 * count / (QWEN_05B.parameters + count):.2f} %")
    default = worked_examples.config().method.lora
    assert default is not None
    assert f"`rank: {default.rank}`, `targetModules: [{', '.join(default.target_modules)}]` (the default)" in TEXT


def test_the_worked_attention_is_that_of_the_model() -> None:
    of_model = {kind.name.rpartition(".")[2]: kind for kind in QWEN_05B.linear_layers}
    for layer in worked_examples.ATTENTION:
        kind = of_model[layer.name]
        assert (layer.in_features, layer.out_features, layer.count) == (kind.in_features, kind.out_features, kind.count)
    heads, key_values, size = QWEN_05B.attention_heads, QWEN_05B.key_value_heads, QWEN_05B.head_size
    text = section("The size of a LoRA adapter")
    assert f"{heads} query heads have {size} values each, {heads} x {size} = {heads * size}" in text
    assert f"its {key_values} key-value heads {key_values} x {size} = {key_values * size}" in text
