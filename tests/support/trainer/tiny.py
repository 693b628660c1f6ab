"""Tiny language models made on the spot: real architectures and tokenizers, random weights, milliseconds each.

The tokenizer is a byte-level BPE, so it can encode anything; its chat template is ChatML.
"""

from pathlib import Path
from typing import Any, Literal

from sftjob_contract.run.config import (
    Attention,
    Checkpoints,
    Columns,
    DataFormat,
    Dataset,
    DataSource,
    Evaluation,
    HeldOut,
    JobReference,
    Kernels,
    Model,
    ModelDtype,
    OnInvalidRow,
    PackingStrategy,
    PaddingSide,
    Precision,
    Render,
    RunConfig,
    Training,
)
from sftjob_contract.run.destinations import Output, Retain, Tracking
from sftjob_contract.run.method import Lora, LoraBias, Method, Quantization
from sftjob_contract.run.optimization import Optimizer, Scheduler

Architecture = Literal["qwen2", "llama"]

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
VOCABULARY = 512
POSITIONS = 512

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Plain ChatML: nothing in it says which tokens are the assistant's."""

CHATML_GENERATION = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML with `{% generation %}` around what the assistant says."""

_WORDS = (
    "return the first item of a list or raise an error when it is empty",
    "what does the function do with a string that has no spaces in it",
    "open a file for reading and close it at the end of the block",
    "the quick brown fox jumps over the lazy dog and runs into the forest",
    "user assistant system question answer 0 1 2 3 4 5 6 7 8 9",
)


def write_tokenizer(directory: Path, *, chat_template: str | None = CHATML) -> Path:
    """Train a tokenizer and save it into `directory`, which is returned. End of sequence is <|im_end|>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_WORDS * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=TURN_END, pad_token=END_OF_TEXT)
    fast.chat_template = chat_template
    fast.save_pretrained(directory)
    return directory


def write_model(
    directory: Path, architecture: Architecture = "qwen2", *, chat_template: str | None = CHATML, seed: int = 0
) -> Path:
    """Save a model with random weights (35,000 to 51,000 parameters) and its tokenizer into `directory`; return it."""
    import torch
    from transformers import AutoModelForCausalLM

    write_tokenizer(directory, chat_template=chat_template)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(_model_config(architecture)).save_pretrained(directory)
    return directory


def write_model_without_weights(directory: Path, *, chat_template: str | None = CHATML) -> Path:
    """All that `prepare` reads of a model, and an empty weight file; needs no torch."""
    write_tokenizer(directory, chat_template=chat_template)
    _model_config("qwen2").save_pretrained(directory)
    (directory / "model.safetensors").touch()
    return directory


def _model_config(architecture: Architecture) -> object:
    from transformers import LlamaConfig, Qwen2Config

    kind = {"qwen2": Qwen2Config, "llama": LlamaConfig}[architecture]
    return kind(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=architecture == "qwen2",
        eos_token_id=2,
        bos_token_id=None,
        pad_token_id=0,
        architectures=["Qwen2ForCausalLM" if architecture == "qwen2" else "LlamaForCausalLM"],
    )


def run_config(
    *,
    model: str,
    dataset: str,
    method: Method | None = None,
    held_out: HeldOut | None = None,
    data_format: DataFormat = DataFormat.AUTO,
    render: Render = Render.PLAIN,
    **training: object,
) -> RunConfig:
    """A small run on the CPU; keyword arguments beyond the named ones replace fields of `training`.

    A prompt and a completion of text stay as they are, since most tests look at their tokens.
    """
    defaults: dict[str, object] = {
        "epochs": None if "max_steps" in training else 1.0,
        "max_steps": None,
        "per_device_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-3,
        "scheduler": Scheduler.COSINE,
        "warmup_ratio": 0.1,
        "warmup_steps": None,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optimizer": Optimizer.ADAMW_TORCH,
        "max_length": 64,
        "packing": False,
        "packing_strategy": PackingStrategy.BFD,
        "loss_on": None,
        "precision": Precision.AUTO,
        "gradient_checkpointing": False,
        "neftune_noise_alpha": None,
        "kernels": Kernels.AUTO,
        "compile": False,
        "early_stopping": None,
        "extra": {},
        "seed": 42,
        "logging_steps": 1,
    }
    return RunConfig(
        version=1,
        job=JobReference(namespace="default", name="tiny", uid="00000000-0000-0000-0000-000000000001"),
        model=Model(
            source=model,
            revision=None,
            dtype=ModelDtype.AUTO,
            attention=Attention.AUTO,
            trust_remote_code=False,
            chat_template=None,
            add_eos_token=True,
            padding_side=PaddingSide.RIGHT,
            chat_template_kwargs=None,
        ),
        dataset=Dataset(
            sources=(data_source(dataset, data_format),),
            shuffle_seed=int(str(training.get("seed", 42))),
            deduplicate=False,
            min_tokens=None,
            max_tokens=None,
            on_invalid_row=OnInvalidRow.FAIL,
            max_invalid_rows=0,
            evaluation=held_out or held_out_fraction(0.0),
            render=render,
        ),
        method=method or Method(lora=None, quantization=None, distillation=None),
        training=Training(**{**defaults, **training}),  # type: ignore[arg-type]
        evaluation=Evaluation(
            every_steps=None,
            per_epoch=1,
            metrics=(),
            save_predictions=False,
            sample_prompts=(),
            max_new_tokens=16,
            max_samples=4,
        ),
        checkpoints=Checkpoints(every_steps=None, per_epoch=1, keep=3, on_termination=True, resume_from=None),
        output=Output(merge_adapter=False, hub=None, upload_uri=None, retain=Retain.ALL),
        tracking=Tracking(tensorboard=False, wandb=None, mlflow=None),
        gpus=0,
        nodes=1,
    )


def data_source(source: str, data_format: DataFormat = DataFormat.AUTO, **changes: Any) -> DataSource:
    """One source with the usual columns."""
    columns = Columns(
        text="text",
        prompt="prompt",
        completion="completion",
        messages="messages",
        instruction="instruction",
        input="input",
        output="output",
        conversations="conversations",
        system="system",
    )
    usual: dict[str, Any] = {
        "revision": None,
        "subset": None,
        "split": None,
        "columns": columns,
        "preprocessing": None,
        "validation": None,
        "max_samples": None,
        "weight": 1.0,
    }
    return DataSource(source=source, format=data_format, **{**usual, **changes})


def held_out_fraction(fraction: float) -> HeldOut:
    """Some of the rows, chosen by the seed."""
    return HeldOut(fraction=fraction, split=None, source=None)


def held_out_source(source: str) -> HeldOut:
    """A data set of its own."""
    return HeldOut(fraction=None, split=None, source=source)


def lora(rank: int = 4, *, quantization: Quantization | None = None, **changes: Any) -> Method:
    """A LoRA method on every linear layer."""
    usual: dict[str, Any] = {
        "rank": rank,
        "alpha": 2 * rank,
        "dropout": 0.0,
        "target_modules": ("all-linear",),
        "bias": LoraBias.NONE,
        "rslora": False,
        "dora": False,
        "modules_to_save": (),
        "extra": {},
    }
    return Method(lora=Lora(**{**usual, **changes}), quantization=quantization, distillation=None)
