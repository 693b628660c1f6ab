"""Generate everything the quickstart needs: a data set, a tokenizer and a small model.

The data set is the Python standard library's own documentation: one question for each documented function, class and
method, answered by its docstring. It is the same on every run with one Python version; other versions document a few
things differently. The model is a Qwen2 with 800,000 random weights, so it knows nothing before training.
"""

import hashlib
import importlib
import inspect
import json
import random
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

# Available in Python 3.11 and later, on every platform, and without side effects on import.
MODULES: Final = tuple(
    """
    builtins abc argparse array asyncio.events asyncio.locks asyncio.queues asyncio.streams asyncio.tasks base64 bdb
    binascii bisect bz2 calendar cmath cmd code codecs collections compileall concurrent.futures configparser contextlib
    copy csv datetime decimal difflib dis doctest email.charset email.header email.message email.policy email.utils enum
    filecmp fileinput fnmatch fractions ftplib functools glob graphlib gzip hashlib heapq hmac html html.parser
    http.client http.cookiejar http.cookies http.server imaplib io ipaddress itertools json linecache locale
    logging logging.config logging.handlers lzma mailbox math mimetypes multiprocessing.pool numbers operator optparse
    pathlib pdb pickle pickletools pkgutil plistlib poplib posixpath pprint profile pstats py_compile pyclbr pydoc queue
    quopri random re sched secrets selectors shelve shlex shutil smtplib socketserver ssl statistics string
    struct subprocess symtable tarfile tempfile textwrap threading time timeit tokenize trace traceback types typing
    unittest unittest.mock urllib.parse urllib.request urllib.robotparser uuid venv warnings wave weakref
    wsgiref.handlers wsgiref.headers xml.dom.minidom xml.etree.ElementTree xml.sax.handler xmlrpc.client zipapp zipfile
    zlib zoneinfo
    """.split(),  # noqa: SIM905 -- a page of quotes and commas would be harder to read
)
MIN_ANSWER: Final = 20
MAX_ANSWER: Final = 200
"""Length of an answer in characters; whole paragraphs only."""
MIN_ROWS: Final = 1500
EVALUATION_SHARE: Final = 20
"""One in this many rows is held out."""

VOCABULARY: Final = 1024
MAX_POSITIONS: Final = 256
SEED: Final = 42

END_OF_TURN: Final = "<|im_end|>"
PADDING: Final = "<|endoftext|>"
START_OF_TURN: Final = "<|im_start|>"
# The generation markers select the tokens to train: the assistant's, including the end of turn.
CHAT_TEMPLATE: Final = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{%- else %}{{- message['content'] + '<|im_end|>' }}{%- endif %}"
    "{{- '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


@dataclass(frozen=True, order=True)
class Row:
    """One question and its answer."""

    question: str
    answer: str

    def messages(self) -> dict[str, list[dict[str, str]]]:
        """The row in the format for tuning chat models."""
        turns = (("user", self.question), ("assistant", self.answer))
        return {"messages": [{"role": role, "content": content} for role, content in turns]}


def standard_library() -> tuple[Row, ...]:
    """Every row, each question and each answer once, in an order that depends only on the text.

    Raises:
        RuntimeError: docstrings are missing (`python -OO`).
    """
    answered: dict[str, str] = {}
    for module in MODULES:
        for question, docstring in _documented(module):
            if (answer := _answer(docstring)) is not None:
                answered.setdefault(answer, question)
    if len(answered) < MIN_ROWS:
        raise RuntimeError(f"only {len(answered)} docstrings found, {MIN_ROWS} needed: run Python without -OO")
    rows = sorted(Row(question, answer) for answer, question in answered.items())
    random.Random(SEED).shuffle(rows)  # noqa: S311 -- an order, not a secret
    return tuple(rows)


def held_out(row: Row) -> bool:
    """Whether `row` is for evaluation: depends on its question alone, so other rows cannot change it."""
    return hashlib.sha256(row.question.encode()).digest()[0] % EVALUATION_SHARE == 0


def write(directory: Path) -> None:
    """Write train.jsonl, evaluation.jsonl and model/ (weights, configuration and tokenizer) to `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = standard_library()
    _write_rows(directory / "train.jsonl", [row for row in rows if not held_out(row)])
    _write_rows(directory / "evaluation.jsonl", [row for row in rows if held_out(row)])
    write_model(directory / "model", rows)


def write_model(directory: Path, rows: tuple[Row, ...]) -> None:
    """Save a tokenizer trained on `rows` and an untrained model in `directory`, laid out as on a model hub."""
    import torch  # noqa: PLC0415 -- seconds to import, and rows do not need it
    from transformers import Qwen2Config, Qwen2ForCausalLM  # noqa: PLC0415 -- same
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415 -- same

    disable_progress_bar()
    tokenizer = _tokenizer(rows)
    torch.manual_seed(SEED)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=344,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _documented(name: str) -> Iterator[tuple[str, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # some public names are deprecated
        module = importlib.import_module(name)
        for public, value in sorted(_public(module)):
            qualified = public if module.__name__ == "builtins" else f"{name}.{public}"
            yield from _question(qualified, value)
            if inspect.isclass(value):
                for member, attribute in sorted(vars(value).items()):
                    if not member.startswith("_"):
                        yield from _question(f"{qualified}.{member}", attribute)


def _public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    for name in set(names):
        value = getattr(module, name, None)
        imported = "__all__" not in vars(module) and getattr(value, "__module__", None) != module.__name__
        if not imported:
            yield name, value


def _question(name: str, value: Any) -> Iterator[tuple[str, str]]:
    docstring = getattr(value, "__doc__", None)
    if not isinstance(docstring, str) or not _standard(value):
        return
    if inspect.isclass(value) or isinstance(value, property):
        yield f"What is `{name}`?", docstring
    elif inspect.isroutine(value) or isinstance(value, classmethod | staticmethod):
        yield f"What does `{name}` do?", docstring


def _standard(value: Any) -> bool:
    """Whether `value` belongs to the standard library: other libraries add functions to its modules and classes."""
    module = getattr(value, "__module__", None)
    return not isinstance(module, str) or module.partition(".")[0] in sys.stdlib_module_names


def _answer(docstring: str) -> str | None:
    """The first paragraphs of `docstring` that fit, each on one line; None if they are not prose."""
    answer = ""
    for paragraph in inspect.cleandoc(docstring).split("\n\n"):
        line = " ".join(paragraph.split())
        longer = f"{answer}\n{line}" if answer else line
        if len(longer) > MAX_ANSWER or not _prose(line):
            break
        answer = longer
    return answer if len(answer) >= MIN_ANSWER else None


def _prose(line: str) -> bool:
    return line[:1].isupper() and line.isascii() and not any(sign in line for sign in ("->", ">>>", " at 0x", ":param"))


def _tokenizer(rows: tuple[Row, ...]) -> Any:
    """A byte-level BPE with Qwen2's own splitting, so that AutoTokenizer loads exactly the same tokenizer."""
    from transformers import Qwen2Tokenizer  # noqa: PLC0415 -- seconds to import

    texts = (text for row in sorted(rows) for text in (row.question, row.answer))
    tokenizer = Qwen2Tokenizer().train_new_from_iterator(
        texts,
        VOCABULARY,
        new_special_tokens=[START_OF_TURN, END_OF_TURN],
        show_progress=False,
    )
    tokenizer.eos_token = END_OF_TURN
    tokenizer.pad_token = PADDING
    tokenizer.model_max_length = MAX_POSITIONS
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _write_rows(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row.messages()) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    """Write everything to the directory named on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/quickstart/dataset.py DIRECTORY")
    directory = Path(sys.argv[1])
    write(directory)
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
