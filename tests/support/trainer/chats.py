"""Tokenizers and conversations to see labels on, and tables of tokens that people can read."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sftjob_contract.run.config import ChatTemplate, ChatTemplateName, LossOn, RunConfig
from sftjob_trainer.rows.examples import Conversation, Example, PromptCompletionMessages
from sftjob_trainer.tokens.chat_template import load_chat_template
from sftjob_trainer.tokens.labels import encoder
from sftjob_trainer.tokens.tokenizer import NOT_TRAINED, Encoded
from support.trainer.tiny import run_config

_WORDS = (
    "return the first item of a list or raise an error when it is empty    twice",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction:\n ### Response:\n USER: ASSISTANT: [INST] [/INST] <|user|> <|assistant|> <|system|> question",
    "<|im_start|> <|im_end|> <|start_header_id|> <|end_header_id|> <|eot_id|> start header id end",
    (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    ),
)
_LINE = 110


def write_plain_tokenizer(directory: Path, *, begins_with_bos: bool = False, ends_with_eos: bool = False) -> Path:
    """Save a tokenizer in the way of GPT-2 into `directory`: no chat tokens, <|endoftext|> ends a text.

    As GPT-2's, it leaves spaces out of offsets. With `begins_with_bos` every text begins with <s>, as Llama's do;
    with `ends_with_eos` too it is closed.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", *(["<s>"] if begins_with_bos else [])]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_WORDS * 4, trainer)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=True)
    if begins_with_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            "<s> $A <|endoftext|>" if ends_with_eos else "<s> $A", special_tokens=[("<s>", 1), ("<|endoftext|>", 0)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<s>" if begins_with_bos else None
    )
    fast.save_pretrained(directory)
    return directory


def conversation(*turns: tuple[str, str], place: str = "d.jsonl:1") -> Conversation:
    """Messages as (role, content)."""
    return Conversation(place, messages(*turns))


def prompted(prompt: list[tuple[str, str]], completion: list[tuple[str, str]]) -> PromptCompletionMessages:
    """A prompt and a completion of messages as (role, content)."""
    return PromptCompletionMessages("d.jsonl:1", conversation(*prompt, *completion), len(prompt))


def messages(*turns: tuple[str, str]) -> tuple[dict[str, str], ...]:
    """Messages as (role, content)."""
    return tuple({"role": role, "content": content} for role, content in turns)


def named(name: str) -> ChatTemplate:
    """One of the trainer's own templates."""
    return ChatTemplate(name=ChatTemplateName(name), jinja=None, file=None)


def use_template(tokenizer: Any, name: str) -> None:
    """Give `tokenizer` one of the trainer's own templates."""
    tokenizer.chat_template = load_chat_template(named(name), tokenizer)


def encoded(tokenizer: Any, example: Example, loss_on: LossOn | None = None, **model: Any) -> Encoded:
    """`example` with its labels; keyword arguments replace fields of the run config's `model`."""
    [row] = encoder(tokenizer, config(loss_on, **model))([example])
    return row


def config(loss_on: LossOn | None = None, **model: Any) -> RunConfig:
    """A run config that trains on `loss_on`; keyword arguments replace fields of `model`."""
    plain = run_config(model="/models/tiny", dataset="/data/d.jsonl", loss_on=loss_on)
    return replace(plain, model=replace(plain.model, **model))


def token_table(example: Encoded, tokenizer: Any) -> str:
    """Every token of `example`: spaces as ␣, ends of lines as ⏎, bytes that are no whole character in hex.

    A token that is trained is in [brackets]. Lines end after an end of line and after a token that is trained last.
    """
    visible = _visible(tokenizer)
    lines, line = [], ""
    pairs = list(zip(example.input_ids, example.labels, strict=True))
    for index, (token, label) in enumerate(pairs):
        assert label in (token, NOT_TRAINED)
        text = visible(token)
        word = f"[{text}]" if label != NOT_TRAINED else text
        if line and len(line) + len(word) > _LINE:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
        last_trained = (
            label != NOT_TRAINED and pairs[index + 1 : index + 2] != [] and pairs[index + 1][1] == NOT_TRAINED
        )
        if text.endswith("⏎") or last_trained:
            lines.append(line)
            line = ""
    return "\n".join([*lines, *([line] if line else [])]) + "\n"


def _visible(tokenizer: Any) -> Callable[[int], str]:
    """How a token of `tokenizer` is written in a table."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    whole = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    of_byte = {char: byte for byte, char in bytes_to_unicode().items()}

    def visible(token: int) -> str:
        name = tokenizer.convert_ids_to_tokens(token)
        if name in whole:
            return str(name)
        raw = bytes(of_byte[char] for char in name)
        try:
            return raw.decode().replace(" ", "␣").replace("\n", "⏎")
        except UnicodeDecodeError:
            return "".join(f"<{byte:02X}>" for byte in raw)

    return visible
