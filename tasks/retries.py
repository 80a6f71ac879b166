"""Which errors are retried, and how patiently: named transient ones only.

Use as ``@task(**RETRY_REGISTRY.options)``.  Tests set ``delays_seconds`` aside with
``task.with_options(retry_delay_seconds=0)``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

from prefect.client.schemas.objects import State

from ranking.errors import RegistryUnavailable


class RetryOptions(TypedDict):
    """The keyword arguments of ``prefect.task`` that a policy fills."""

    retries: int
    retry_delay_seconds: list[float]
    retry_jitter_factor: float
    retry_condition_fn: Callable[[Any, Any, State[Any]], bool]


@dataclass(frozen=True)
class RetryPolicy:
    """Retry ``errors``, once per delay."""

    errors: tuple[type[Exception], ...]
    delays_seconds: tuple[float, ...]
    jitter: float = 0.3

    def wants(self, task: Any, run: Any, state: State[Any]) -> bool:
        """Whether the failed state holds one of the named errors."""
        result = state.result(raise_on_failure=False)
        return isinstance(result, self.errors)

    @property
    def options(self) -> RetryOptions:
        """Arguments for ``@task``."""
        return RetryOptions(
            retries=len(self.delays_seconds),
            retry_delay_seconds=list(self.delays_seconds),
            retry_jitter_factor=self.jitter,
            retry_condition_fn=self.wants,
        )


RETRY_REGISTRY = RetryPolicy(errors=(RegistryUnavailable,), delays_seconds=(1, 5, 20))
RETRY_STORAGE = RetryPolicy(errors=(ConnectionError, TimeoutError), delays_seconds=(1, 5, 20))
