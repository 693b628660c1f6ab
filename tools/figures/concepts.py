"""Draw the figures of docs/concepts.md."""

from typing import Final

from tools.figures.svg import BLUE, GRAY, GREEN, LIGHT_BLUE, LIGHT_ORANGE, ORANGE, WHITE, Picture
from tools.figures.worked_examples import ATTENTION, HIDDEN, KEY_VALUE, RANK, ROWS, steps

SHIFT_TOKENS: Final = ("the", "cat", "sat", "on", "the", "mat", "<eos>")
SHIFT_PROMPT: Final = 4
"""Tokens of the prompt, which is not trained."""
PACKED: Final = (5, 3)
"""Tokens of the two rows in a packed sequence."""
NOT_TRAINED: Final = "-100"
FORMATS: Final = {"fp32": (8, 23), "bf16": (8, 7), "fp16": (5, 10)}
"""Bits of exponent and mantissa; one more is the sign."""


def counting() -> Picture:
    """From rows to optimizer steps."""
    counted = steps()
    picture = Picture(760, 190, "How 2,000 rows become optimizer steps")
    picture.box((20, 30), (720, 30), LIGHT_BLUE, f"{counted.trained:,} rows to train on")
    held_out = 720 * counted.held_out / ROWS
    picture.box((740 - held_out, 30), (held_out, 30), LIGHT_ORANGE)
    picture.text((740, 22), f"{counted.held_out} rows held out", "end", ORANGE)
    picture.text((20, 22), f"{ROWS:,} rows")
    picture.arrow((380, 62), (380, 84))
    for index in range(8):
        fill = LIGHT_BLUE if index // 4 == 0 else GREEN
        picture.box((20 + 48 * index, 88), (44, 26), fill, "4 rows")
    picture.text((412, 106), f"... {counted.micro_batches} micro-batches of perDeviceBatchSize rows")
    for index in range(2):
        picture.arrow((114 + 192 * index, 116), (114 + 192 * index, 134))
        picture.box((20 + 192 * index, 138), (188, 26), (LIGHT_BLUE, GREEN)[index], f"step {index + 1}: 16 rows")
    picture.text((412, 156), f"... {counted.per_epoch} steps per epoch, {counted.total} in 3 epochs")
    return picture


def shift() -> Picture:
    """Inputs, labels and what is compared with what."""
    picture = Picture(700, 190, "Labels are compared with the prediction of the token before")
    width = 80
    for index, token in enumerate(SHIFT_TOKENS):
        left = 110 + width * index
        trained = index >= SHIFT_PROMPT
        picture.box((left, 20), (width, 28), GRAY if index < SHIFT_PROMPT else LIGHT_BLUE, token)
        picture.box((left, 80), (width, 28), LIGHT_BLUE if trained else WHITE, token if trained else NOT_TRAINED)
        if trained:
            picture.line([(left - width / 2, 48), (left + width / 2, 80)], BLUE, 1.4)
    picture.text((20, 39), "input_ids")
    picture.text((20, 99), "labels")
    picture.text(
        (110, 140), "Each blue line is one prediction in the loss: the logits at a token are compared with the"
    )
    picture.text((110, 158), f"label of the next token. {NOT_TRAINED}: no loss. The logits at <eos> are not used.")
    return picture


def accumulation() -> Picture:
    """Four micro-batches, or one large batch: the same step."""
    picture = Picture(700, 200, "Gradient accumulation and one large batch take the same step")
    for index in range(4):
        picture.box((20 + 70 * index, 40), (64, 26), LIGHT_BLUE, "4 rows")
        picture.arrow((52 + 70 * index, 68), (52 + 70 * index, 92))
    picture.box((20, 96), (274, 26), GRAY, "gradients are added")
    picture.arrow((157, 124), (157, 148))
    picture.box((20, 152), (274, 26), GREEN, "one optimizer step")
    picture.text((20, 26), "gradientAccumulationSteps: 4, one after the other")
    picture.box((400, 40), (274, 26), LIGHT_BLUE, "16 rows")
    picture.arrow((537, 68), (537, 92))
    picture.box((400, 96), (274, 26), GRAY, "gradients")
    picture.arrow((537, 124), (537, 148))
    picture.box((400, 152), (274, 26), GREEN, "the same optimizer step")
    picture.text((400, 26), "perDeviceBatchSize: 16, all at once")
    return picture


def packing() -> Picture:
    """The mask, positions and labels of two rows in one sequence."""
    picture = Picture(700, 330, "Two rows packed into one sequence")
    side, left, top = 26, 110, 110
    names = [f"{letter}{index}" for letter, count in zip("AB", PACKED, strict=True) for index in range(count)]
    starts = [start for start, count in zip((0, PACKED[0]), PACKED, strict=True) for _ in range(count)]
    for column, name in enumerate(names):
        fill = LIGHT_BLUE if name.startswith("A") else GREEN
        for row, text in enumerate((name, str(column - starts[column]), name)):
            label = NOT_TRAINED if row == 2 and column == starts[column] else text
            width = side * 1.5
            picture.box(
                (left + width * column, 16 + 28 * row), (width, 24), WHITE if label == NOT_TRAINED else fill, label
            )
    for row, label in enumerate(("input_ids", "position_ids", "labels")):
        picture.text((20, 33 + 28 * row), label)
    for query, name in enumerate(names):
        picture.text((left - 8, top + 18 + side * query), name, "end")
        for key in range(len(names)):
            seen = starts[query] <= key <= query
            fill = (LIGHT_BLUE if name.startswith("A") else GREEN) if seen else WHITE
            picture.box((left + side * key, top + side * query), (side, side), fill)
    for line, text in enumerate(
        ("The attention mask: a token (row) sees itself", "and earlier tokens of its own row (columns).", "",
         "B0 has no label. As a label it would be compared", "with the logits at A4, the end of another row.")
    ):  # fmt: skip
        picture.text((left + side * len(names) + 24, top + 30 + 20 * line), text)
    return picture


def precision() -> Picture:
    """The bits of the three formats."""
    picture = Picture(700, 150, "Bits of fp32, bf16 and fp16")
    for row, (name, (exponent, mantissa)) in enumerate(FORMATS.items()):
        left, top = 80.0, 20 + 42 * row
        picture.text((20, top + 18), name)
        for count, fill, label in (
            (1, GRAY, "±"),
            (exponent, LIGHT_ORANGE, f"{exponent} exponent"),
            (mantissa, LIGHT_BLUE, f"{mantissa} mantissa"),
        ):
            picture.box((left, top), (18 * count, 26), fill, label)
            left += 18 * count
    return picture


def lora() -> Picture:
    """The matrices of LoRA beside q_proj and k_proj."""
    picture = Picture(700, 240, "LoRA beside two weights of Qwen2.5-0.5B")
    query, key = ATTENTION[0], ATTENTION[1]
    for index, layer in enumerate((query, key)):
        left = 30 + 350 * index
        height = 150 if layer.out_features == HIDDEN else 150 * KEY_VALUE / HIDDEN
        picture.text((left, 24), f"{layer.name}: {layer.in_features} in, {layer.out_features} out")
        picture.box((left, 50), (150, height), GRAY, "frozen W" if height > 30 else "")
        picture.text((left + 160, 50 + height / 2 + 4), "+")
        picture.box((left + 178, 50), (12, height), LIGHT_BLUE)
        picture.text((left + 184, 44), "B", "middle", BLUE)
        picture.box((left + 198, 50), (110, 12), LIGHT_BLUE)
        picture.text((left + 253, 44), "A", "middle", BLUE)
        picture.text((left + 198, 80), f"A: {RANK} x {layer.in_features}")
        picture.text((left + 198, 98), f"B: {layer.out_features} x {RANK}")
        total = RANK * (layer.in_features + layer.out_features)
        picture.text((left + 198, 122), f"{total:,} trained", color=BLUE)
    picture.text((30, 228), "The output is W x + (alpha / rank) B A x. Only A and B are trained.")
    return picture
