"""The codec between dataclasses and JSON."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftjob_contract.codec import ContractError, camel, decode, encode, from_json, to_json
from sftjob_contract.reports.progress import PROGRESS_VERSION, Activity, Checkpoint, HistoryPoint, Progress


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class Inner:
    long_name: int


@dataclass(frozen=True, kw_only=True)
class Outer:
    text: str
    ratio: float
    flag: bool
    colour: Colour
    inner: Inner
    many: tuple[Inner, ...]
    table: Mapping[str, float]
    maybe: int | None


WHOLE = {
    "text": "x",
    "ratio": 1,
    "flag": True,
    "colour": "red",
    "inner": {"longName": 3},
    "many": [{"longName": 4}],
    "table": {"a": 1.5},
}


def test_fields_are_written_in_camel_case_and_none_is_left_out() -> None:
    value = decode(Outer, WHOLE, ignore_unknown=False)
    assert value.maybe is None
    assert encode(value) == {**WHOLE, "ratio": 1.0}
    assert camel("max_grad_norm") == "maxGradNorm"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"text": 5}, "text must be of type str, not 5"),
        ({"ratio": "2e-4"}, "ratio must be a finite number, not '2e-4'"),
        ({"ratio": True}, "ratio must be a finite number, not True"),
        ({"ratio": math.inf}, "ratio must be a finite number, not inf"),
        (
            {"ratio": 10**400},
            f"ratio must be a finite number, not 1{'0' * 56}...",
        ),
        ({"flag": 1}, "flag must be of type bool, not 1"),
        ({"colour": "green"}, "colour must be one of red, blue, not 'green'"),
        ({"inner": {"longName": True}}, "inner.longName must be of type int, not True"),
        ({"inner": {}}, "inner.longName is missing"),
        ({"inner": []}, "inner must be an object, not []"),
        ({"many": {"longName": 1}}, "many must be of type list, not {'longName': 1}"),
        ({"many": [{"longName": "a"}]}, "many[0].longName must be of type int, not 'a'"),
        ({"table": {"a": "b"}}, "table.a must be a finite number, not 'b'"),
        ({"text": None}, "text is missing"),
        ({"colour_": 1}, "colour_ is unknown; known keys: text, ratio, flag, colour, inner, many, table, maybe"),
        (
            {"text": list(range(50))},
            "text must be of type str, not [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16...",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_path(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ContractError) as caught:
        decode(Outer, {**WHOLE, **change}, ignore_unknown=False)
    assert str(caught.value) == sentence


def test_an_unknown_key_is_ignored_only_where_the_reader_says_so() -> None:
    newer = {**WHOLE, "added": 1, "inner": {"longName": 3, "added": 2}}
    assert decode(Outer, newer, ignore_unknown=True).inner == Inner(long_name=3)
    with pytest.raises(ContractError, match="added is unknown"):
        decode(Outer, newer, ignore_unknown=False)


@pytest.mark.parametrize("text", ["", "{", "[1", "nonsense", b"\xff\xfe", "[" * 100_000])
def test_text_that_is_no_json_is_refused_with_a_contract_error(text: str | bytes) -> None:
    with pytest.raises(ContractError, match="not valid JSON"):
        from_json(Inner, text, ignore_unknown=True)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"'])
def test_json_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ContractError, match="Inner must be an object"):
        from_json(Inner, text, ignore_unknown=True)


def test_a_number_that_json_can_not_carry_is_refused_on_writing() -> None:
    with pytest.raises(ContractError, match="JSON cannot represent nan"):
        to_json(HistoryPoint(step=1, loss=math.nan))


steps = st.integers(min_value=0, max_value=10**9)
losses = st.none() | st.floats(allow_nan=False, allow_infinity=False)
points = st.builds(HistoryPoint, step=steps, loss=losses, eval_loss=losses)
checkpoints = st.builds(Checkpoint, step=steps, path=st.text(), bytes=steps, time=st.text(), eval_loss=losses)
states = st.builds(
    Progress,
    version=st.just(PROGRESS_VERSION),
    attempt=steps,
    activity=st.sampled_from(Activity),
    time=st.text(),
    step=steps,
    max_steps=steps,
    resumed_from_step=steps,
    tokens=steps,
    loss=losses,
    checkpoints=st.lists(checkpoints, max_size=3).map(tuple),
    history=st.lists(points, max_size=5).map(tuple),
)


@given(states)
def test_every_state_survives_the_way_through_json(state: Progress) -> None:
    assert from_json(Progress, to_json(state), ignore_unknown=False) == state
