"""A circuit breaker: what fails again and again is not asked for a while."""

from dataclasses import dataclass, field


@dataclass
class Breaker:
    """Opens after so many failures in a row; after a pause one attempt decides whether it closes.

    Args:
        failures: in a row that open it.
        seconds: pause.
    """

    failures: int
    seconds: float
    _row: int = field(default=0, init=False)
    _opened: float | None = field(default=None, init=False)

    def allows(self, now: float) -> bool:
        """Whether to try.  While half open, one attempt per pause.

        Args:
            now: seconds of a monotonic clock.
        """
        if self._opened is None:
            return True
        if now - self._opened < self.seconds:
            return False
        self._opened = now
        return True

    def succeeded(self) -> None:
        """An attempt went well."""
        self._row, self._opened = 0, None

    def failed(self, now: float) -> bool:
        """An attempt failed; says whether this one opened it.

        Args:
            now: seconds of a monotonic clock.
        """
        self._row += 1
        if self._row < self.failures:
            return False
        opened = self._opened is None
        self._opened = now
        return opened

    @property
    def open(self) -> bool:
        """Whether it is open, or waits for the attempt that decides."""
        return self._opened is not None
