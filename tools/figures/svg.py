"""Draw SVG: a picture of rectangles, lines and texts, with the same bytes each time."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

INK: Final = "#1f2328"
FAINT: Final = "#d0d7de"
BLUE: Final = "#0969da"
LIGHT_BLUE: Final = "#b6d7ff"
ORANGE: Final = "#bc4c00"
LIGHT_ORANGE: Final = "#ffd8b5"
GREEN: Final = "#b4e8bd"
GRAY: Final = "#eaeef2"
WHITE: Final = "#ffffff"
SIZE: Final = 13
"""Of text, in pixels."""


def number(value: float) -> str:
    """A coordinate with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


class Picture:
    """An SVG of fixed size on a white ground, so that it is readable in a light and in a dark theme."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._size = (width, height)
        self._title = title
        self._parts: list[str] = []

    def box(self, corner: tuple[float, float], size: tuple[float, float], fill: str = WHITE, label: str = "") -> None:
        """A rectangle with its upper left corner at `corner`, and a label in its middle."""
        (x, y), (width, height) = corner, size
        self._parts.append(
            f'<rect x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}" fill="{fill}" '
            f'stroke="{INK}" stroke-width="0.7"/>'
        )
        if label:
            self.text((x + width / 2, y + height / 2 + SIZE / 3), label, "middle")

    def text(self, place: tuple[float, float], text: str, anchor: str = "start", color: str = INK) -> None:
        """A text whose baseline starts, is centred or ends at `place`."""
        x, y = place
        self._parts.append(
            f'<text x="{number(x)}" y="{number(y)}" text-anchor="{anchor}" fill="{color}">{escape(text)}</text>'
        )

    def line(self, points: Iterable[tuple[float, float]], color: str = INK, width: float = 1.0) -> None:
        """A line through `points`."""
        path = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        self._parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{number(width)}"/>')

    def arrow(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """An arrow that points right or down."""
        (x0, y0), (x1, y1) = start, end
        along, across = ((-6, 0), (0, 3.5)) if x1 - x0 > y1 - y0 else ((0, -6), (3.5, 0))
        self.line([start, end])
        for side in (1, -1):
            self.line([end, (x1 + along[0] + side * across[0], y1 + along[1] + side * across[1])])

    def dots(self, points: Iterable[tuple[float, float]], color: str) -> None:
        """A dot at each point."""
        self._parts += [f'<circle cx="{number(x)}" cy="{number(y)}" r="3" fill="{color}"/>' for x, y in points]

    def svg(self) -> str:
        """The whole document."""
        width, height = self._size
        size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="{SIZE}">',
                f"<title>{escape(self._title)}</title>",
                f'<rect width="{width}" height="{height}" fill="{WHITE}"/>',
                *self._parts,
                "</svg>\n",
            ]
        )

    def save(self, path: Path) -> None:
        """Write the document."""
        path.write_text(self.svg(), encoding="utf-8")
