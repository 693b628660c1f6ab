"""Where the time of one attempt goes, by a clock that is injected."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from sftjob_contract.progress import Activity


@dataclass(frozen=True, kw_only=True)
class Window:
    """Training between two logs: optimizer steps, seconds, and the part of these that was spent waiting for data."""

    steps: int
    seconds: float
    data_wait_seconds: float


class Timing:
    """Seconds by activity. Time passes only when one of the methods is called, from mark to mark."""

    def __init__(self, clock: Callable[[], float], *, started: float | None = None) -> None:
        """`clock` gives seconds that only rise; at `started`, by default now, the process began."""
        self._clock = clock
        self._mark = clock()
        self._started = self._mark if started is None else started
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

    def take(self) -> None:
        """Count the time since the last mark as that of the present activity."""
        mark = self._clock()
        self._spent[self.activity] = self.spent(self.activity) + mark - self._mark
        self._mark = mark

    def doing(self, activity: Activity) -> None:
        """What happens from now on."""
        self.take()
        if activity is Activity.SAVING and self.activity is not Activity.SAVING:
            self._saving_since = self._mark
        self.activity = activity
        if activity is Activity.TRAINING and self._first_step_began is None:
            self._first_step_began = self._mark
            self._evaluated_before = self.spent(Activity.EVALUATING)

    def loaded(self, part: str) -> None:
        """A part of what comes before the second step is done."""
        now = self._clock()
        self._parts[part] = now - self._part_began
        self._part_began = now

    def saved(self) -> None:
        """A checkpoint is complete; its save began with the activity."""
        self.take()
        if self._saving_since is not None:
            self._saves.append(self._mark - self._saving_since)
            self._saving_since = None

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Around fetching the batches of a step."""
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
        """Seconds of `activity` up to the last mark."""
        return self._spent.get(activity, 0.0)

    @property
    def parts(self) -> Mapping[str, float]:
        """Seconds of each part of what comes before the second step, in order."""
        return self._parts

    @property
    def loading_seconds(self) -> float | None:
        """From the start of the process to the first step without the evaluation before it; None before that step."""
        if self._first_step_began is None:
            return None
        return self._first_step_began - self._started - self._evaluated_before

    @property
    def stepping_seconds(self) -> float | None:
        """From the first step to the last mark, whatever happened in between; None before the first step."""
        return None if self._first_step_began is None else self._mark - self._first_step_began

    @property
    def saving_seconds(self) -> float | None:
        """All saves; None before the first one is complete."""
        return sum(self._saves) if self._saves else None

    @property
    def longest_save_seconds(self) -> float | None:
        """The longest save; None before the first one is complete."""
        return max(self._saves, default=None)
