"""The demo's view of an SFTJob: live in a terminal, one line per change elsewhere."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

import plotext
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid

from sftjob_dev.cluster import Table

_CURVE_WIDTH: Final = 78
_CURVE_HEIGHT: Final = 16
_BAR_WIDTH: Final = 40


class Screen:
    """Shows one job while it runs. On a terminal the display is redrawn in place, and its last state remains."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._last = ""

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, job: Mapping[str, Any]) -> None:
        """Show the current state of the job."""
        if self._live is not None:
            self._live.update(panel(job))
        elif (line := summary(job)) != self._last:
            self._console.print(line, highlight=False, soft_wrap=True)
            self._last = line


def summary(job: Mapping[str, Any]) -> str:
    """A job in one line: `quickstart  Running  step 40/1390 (2%)  loss 5.310  ...`."""
    status = job.get("status", {})
    progress = status.get("progress", {})
    parts = [job["metadata"]["name"], status.get("phase", "Pending")]
    if progress:
        parts.append(f"step {progress['step']}/{progress['maxSteps']} ({progress['percent']}%)")
    return "  ".join(parts + [f"{name} {value}" for name, value in _measures(progress).items()])


def panel(job: Mapping[str, Any]) -> Grid:
    """The same with a progress bar, as a vertical layout."""
    status = job.get("status", {})
    progress = status.get("progress", {})
    grid = Grid.grid(padding=(0, 2))
    grid.add_row(job["metadata"]["name"], f"[bold]{status.get('phase', 'Pending')}[/]", progress.get("activity", ""))
    if progress:
        bar = ProgressBar(total=progress["maxSteps"], completed=progress["step"], width=_BAR_WIDTH)
        grid.add_row("step", bar, f"{progress['step']}/{progress['maxSteps']}")
    for name, value in _measures(progress).items():
        grid.add_row(name, value)
    return grid


def curve(job: Mapping[str, Any]) -> str:
    """The loss curve of a job's status.history, drawn with characters."""
    history = job["status"]["history"]
    figure = plotext.figure
    figure.clear()
    figure.plot_size(_CURVE_WIDTH, _CURVE_HEIGHT)
    figure.theme("colorless")
    for key, marker in (("loss", "hd"), ("evalLoss", "o")):
        points = [point for point in history if key in point]
        if points:
            signal = figure.signal([point["step"] for point in points], [point[key] for point in points], marker=marker)
            figure.draw((signal.lines() if key == "loss" else signal).label(key))
    last = int(history[-1]["step"])
    steps = [last * quarter // 4 for quarter in range(5)]
    figure.ruler("x").ticks(steps, [str(step) for step in steps])
    highest = max(value for point in history for value in (point.get("loss"), point.get("evalLoss")) if value)
    figure.legend(x=last, y=highest, ha="right", va="top", relative=True)
    figure.title(f"{job['metadata']['name']}: loss by step")
    drawn: str = figure.build().string(colorless=True)
    return drawn


def status_table(table: Table) -> Grid:
    """The output of `kubectl get`."""
    grid = Grid(*table.columns, box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="")
    for row in table.rows:
        grid.add_row(*row)
    return grid


def _measures(progress: Mapping[str, Any]) -> dict[str, str]:
    shown = {
        "loss": f"{progress['loss']:.3f}" if "loss" in progress else None,
        "evalLoss": f"{progress['evalLoss']:.3f}" if "evalLoss" in progress else None,
        "tokens/s": f"{progress['tokensPerSecond']:,.0f}" if "tokensPerSecond" in progress else None,
        "ETA": progress.get("eta"),
    }
    return {name: value for name, value in shown.items() if value is not None}
