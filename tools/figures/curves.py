"""Plot curves: recorded losses and the learning rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tools.figures.svg import BLUE, FAINT, ORANGE, Picture
from tools.figures.worked_examples import learning_rates, steps

Points = Sequence[Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Where values are in a picture: x from 0 to `right`, y from 0 to `top`."""

    corner: tuple[float, float]
    size: tuple[float, float]
    right: float
    top: float

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The place of a point; higher ones are at the upper edge."""
        (left, above), (width, height) = self.corner, self.size
        return left + width * x / self.right, above + height * (1 - min(y, self.top) / self.top)

    def draw(self, picture: Picture, ys: Sequence[float], labels: Sequence[str]) -> None:
        """Draw grid lines at `ys` with their labels, and the last x below the axis."""
        for y, label in zip(ys, labels, strict=True):
            left, height = self.place(0, y)
            picture.line([(left, height), self.place(self.right, y)], FAINT)
            picture.text((left - 6, height + 4), label, "end")
        left, low = self.place(0, 0)
        picture.text((left, low + 16), "0", "middle")
        picture.text((left + self.size[0], low + 16), f"step {self.right:g}", "end")


def losses(curves: Mapping[str, Points]) -> Picture:
    """One panel for each recorded run: training loss as a line, evaluation loss as dots."""
    picture = Picture(760, 520, "Training loss and evaluation loss of four runs")
    for index, (name, points) in enumerate(curves.items()):
        corner = (45 + 370 * (index % 2), 55 + 240 * (index // 2))
        axes = Axes(corner=corner, size=(300, 160), right=max(point["step"] for point in points), top=8)
        axes.draw(picture, (0, 2, 4, 6, 8), ("0", "2", "4", "6", "8"))
        picture.text((corner[0], corner[1] - 12), name)
        picture.line([axes.place(p["step"], p["loss"]) for p in points if "loss" in p], BLUE, 1.6)
        picture.dots([axes.place(p["step"], p["evalLoss"]) for p in points if "evalLoss" in p], ORANGE)
    picture.text((45, 510), "line: loss (training)", color=BLUE)
    picture.text((215, 510), "dots: evalLoss (held-out rows)", color=ORANGE)
    return picture


def schedule() -> Picture:
    """The learning rate of the worked example."""
    counted, rates = steps(), learning_rates()
    picture = Picture(560, 230, "Learning rate with warmup and cosine decay")
    axes = Axes(corner=(55, 30), size=(480, 150), right=counted.total, top=2e-4)
    axes.draw(picture, (0, 1e-4, 2e-4), ("0", "1e-4", "2e-4"))
    picture.line([axes.place(step, rate) for step, rate in enumerate(rates, start=1)], BLUE, 1.8)
    picture.text((70, 22), f"{counted.warmup} steps of warmup, then half a cosine wave")
    return picture
