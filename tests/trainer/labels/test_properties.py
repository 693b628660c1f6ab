"""What holds for any conversation."""

from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftjob_contract.run.config import ChatTemplateName, LossOn
from sftjob_trainer.tokens.labels import label_spans
from sftjob_trainer.tokens.tokenizer import NOT_TRAINED, load_tokenizer
from support.trainer.chats import config, conversation, encoded, use_template

TEMPLATES = [name.value for name in ChatTemplateName]
SPACE_BEFORE_ANSWER = ("vicuna", "mistral")

# No control tokens: a text that spells one out becomes that token. No space or newline first: a tokenizer may join it
# to what opens the turn.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=12).filter(
    lambda text: text[:1].isalnum() or not text
)
turns = st.lists(st.tuples(texts, texts), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def shared_tokenizer(model_without_weights: Path) -> Any:
    return load_tokenizer(model_without_weights, config().model)


@pytest.mark.parametrize("name", TEMPLATES)
@given(turns=turns, system=st.booleans())
@settings(max_examples=20, deadline=None)
def test_exactly_the_assistants_words_are_trained(
    name: str, turns: list[tuple[str, str]], system: bool, shared_tokenizer: Any
) -> None:
    use_template(shared_tokenizer, name)
    opening = [("system", "be kind")] if system else []
    talk = [part for question, answer in turns for part in (("user", question), ("assistant", answer))]
    row = encoded(shared_tokenizer, conversation(*opening, *talk))

    assert all(label in (token, NOT_TRAINED) for token, label in zip(row.input_ids, row.labels, strict=True))
    trained = shared_tokenizer.decode([label for label in row.labels if label != NOT_TRAINED])
    space = " " if name in SPACE_BEFORE_ANSWER else ""
    written = "".join(f"{space}{answer}<|im_end|>" for _, answer in turns)
    assert trained == normalize("NFC", written), "this tokenizer composes characters"


@given(turns=turns)
@settings(max_examples=20, deadline=None)
def test_the_loss_changes_labels_only(turns: list[tuple[str, str]], shared_tokenizer: Any) -> None:
    use_template(shared_tokenizer, "chatml")
    talk = conversation(*[part for one, other in turns for part in (("user", one), ("assistant", other))])
    everything = encoded(shared_tokenizer, talk, LossOn.ALL)
    assert everything.labels == everything.input_ids == encoded(shared_tokenizer, talk).input_ids


@given(widths=st.lists(st.integers(0, 3), max_size=12), cuts=st.lists(st.integers(0, 30), max_size=6))
def test_spans_label_every_token_that_they_touch_and_no_other(widths: list[int], cuts: list[int]) -> None:
    """Tokens of `widths` characters; one of width 0 stands for spaces that lie where it ends."""
    ends = [sum(widths[: index + 1]) for index in range(len(widths))]
    offsets = [(end - width, end) for end, width in zip(ends, widths, strict=True)]
    ids = list(range(len(widths)))
    cuts = sorted(set(cuts))
    spans = list(zip(cuts[::2], cuts[1::2], strict=False))
    expected = [
        index
        if any((low < end and high > start) or (low == high and start < low <= end) for start, end in spans)
        else NOT_TRAINED
        for index, (low, high) in enumerate(offsets)
    ]
    assert label_spans(ids, offsets, spans) == expected
