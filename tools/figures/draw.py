"""Draw every figure of the documentation into docs/figures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tools.figures import concepts, curves
from tools.figures.svg import Picture

FIGURES: Final = Path(__file__).resolve().parents[2] / "docs" / "figures"


def pictures() -> Mapping[str, Picture]:
    """Every picture by the name of its file."""
    recorded = json.loads((FIGURES / "loss-curves.json").read_text(encoding="utf-8"))
    return {
        "loss-curves": curves.losses(recorded),
        "steps": concepts.counting(),
        "shift": concepts.shift(),
        "accumulation": concepts.accumulation(),
        "packing": concepts.packing(),
        "schedule": curves.schedule(),
        "precision": concepts.precision(),
        "lora": concepts.lora(),
    }


def main() -> None:
    """Draw them."""
    for name, picture in pictures().items():
        picture.save(FIGURES / f"{name}.svg")


if __name__ == "__main__":
    main()
