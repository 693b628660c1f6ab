"""How one attempt spends its time, measured with an injected clock."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from sftjob_contract.reports.progress import Activity


@dataclass(frozen=True, kw_only=True)
class Window:
    """Training between two logs: optimizer steps, seconds, and the part of these that was spent waiting for data."""

    steps: int
    seconds: float
    data_wait_seconds: float


class Timing:
    """Seconds by activity. Each method call ends the current interval."""

    def __init__(self, clock: Callable[[], float], *, started: float | None = None) -> None:
        """`clock` returns monotonic seconds; the process started at `started`, by default now."""
        self._clock = clock
        self._last_call = clock()
        self._started = self._last_call if started is None else started
        self._part_began = self._started
        self._parts: dict[str, float] = {}
        self._first_step_began: float | None = None
        self._evaluated_before = 0.0
        self._spent: dict[Activity, float] = {}
        self._saves: list[float] = []
        self._saving_since: float | None = None
        self._data_wait = 0.0
        self._window_began = (0.0, 0.0)
        self.activity = Activity.LOADING

    def add_elapsed(self) -> None:
        """Add the time since the last call to the current activity."""
        now = self._clock()
        self._spent[self.activity] = self.spent(self.activity) + now - self._last_call
        self._last_call = now

    def set_activity(self, activity: Activity) -> None:
        """Set the current activity."""
        self.add_elapsed()
        if activity is Activity.SAVING and self.activity is not Activity.SAVING:
            self._saving_since = self._last_call
        self.activity = activity
        if activity is Activity.TRAINING and self._first_step_began is None:
            self._first_step_began = self._last_call
            self._evaluated_before = self.spent(Activity.EVALUATING)

    def finish_startup_part(self, part: str) -> None:
        """Record that a part of the startup before the second step is done."""
        now = self._clock()
        self._parts[part] = now - self._part_began
        self._part_began = now

    def saved(self) -> None:
        """Record a complete checkpoint; its save started with the activity."""
        self.add_elapsed()
        if self._saving_since is not None:
            self._saves.append(self._last_call - self._saving_since)
            self._saving_since = None

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Wrap fetching the batches of a step."""
        began = self._clock()
        try:
            yield
        finally:
            self._data_wait += self._clock() - began

    def window(self, steps: int) -> Window:
        """The window that a log after `steps` more steps closes."""
        seconds, waited = self._window_began
        self._window_began = (self.spent(Activity.TRAINING), self._data_wait)
        return Window(
            steps=steps,
            seconds=self.spent(Activity.TRAINING) - seconds,
            data_wait_seconds=self._data_wait - waited,
        )

    def spent(self, activity: Activity) -> float:
        """Seconds of `activity` up to the last call."""
        return self._spent.get(activity, 0.0)

    @property
    def parts(self) -> Mapping[str, float]:
        """Seconds of each part of the startup before the second step, in order."""
        return self._parts

    @property
    def loading_seconds(self) -> float | None:
        """From the process start to the first step, without the evaluation before it; None before that step."""
        if self._first_step_began is None:
            return None
        return self._first_step_began - self._started - self._evaluated_before

    @property
    def stepping_seconds(self) -> float | None:
        """From the first step to the last call, including everything in between; None before the first step."""
        return None if self._first_step_began is None else self._last_call - self._first_step_began

    @property
    def saving_seconds(self) -> float | None:
        """All saves; None before the first one is complete."""
        return sum(self._saves) if self._saves else None

    @property
    def longest_save_seconds(self) -> float | None:
        """The longest save; None before the first one is complete."""
        return max(self._saves, default=None)
