"""JSON that is nearly right: one to three changes of a real message or object, drawn by a seed."""

import copy
import json
import random
from typing import Any

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**53 + 1, 2**63, 10**40, -(10**40), 0.5, -1.5, 1e308, 5e-324,
    float("nan"), float("inf"), "", "x", "a" * 3000, "\ud800", "\x00\x1b[2J", "\u202e", "../..", "1" * 5000, "\u0663",
    "2026-03-01 12:00:00+00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z", "2016-12-31T23:59:60Z", "now",
    "://" + ":" * 500, "-eyJ" * 300, "hf_" + "a" * 40, "bearer " * 200, [], {}, [None], [[[[[]]]]], [{}] * 600,
    {"a": {"b": {"c": {}}}}, {str(number): number for number in range(600)}, {"": ""}, ["x" * 300] * 20,
)  # fmt: skip


def mutated(rng: random.Random, original: Any) -> Any:
    """A copy of `original` with some places replaced, removed, doubled, swapped or added."""
    changed = copy.deepcopy(original)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(changed))
        if not places:
            return rng.choice(HOSTILE)
        holder, key = rng.choice(places)
        kind = rng.randrange(6)
        if kind == 0 and isinstance(holder, dict):
            del holder[key]
        elif kind == 1 and isinstance(holder, list):
            holder.extend(copy.deepcopy(holder[key]) for _ in range(rng.choice((1, 5, 700))))
        elif kind == 2 and isinstance(holder, dict):
            holder[rng.choice(("extra", "", "\ud800", "k" * 2000))] = copy.deepcopy(rng.choice(HOSTILE))
        elif kind == 3:
            other, its_key = rng.choice(places)
            holder[key] = copy.deepcopy(other[its_key])
        else:
            holder[key] = copy.deepcopy(rng.choice(HOSTILE))
    return changed


def as_text(rng: random.Random, value: Any) -> str:
    """`value` as JSON, now and then broken, deep, or with numbers without end."""
    text = json.dumps(value)
    damage = rng.randrange(12)
    if damage == 0:
        return text[: rng.randrange(len(text) + 1)]
    if damage == 1:
        return text.replace("1", rng.choice(("1" * 6000, "1e999", "-", "NaN", "1" * 500)), 1)
    if damage == 2:
        return text.replace("{", '{"deep": ' + "[" * rng.choice((50, 5000)), 1)
    return text


def _places(value: Any) -> Any:
    if isinstance(value, dict):
        for key in list(value):
            yield value, key
            yield from _places(value[key])
    elif isinstance(value, list):
        for index in range(min(len(value), 20)):
            yield value, index
            yield from _places(value[index])
