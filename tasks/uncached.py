"""Options of tasks whose results are neither kept nor looked up: a check is repeated as a whole, and cheaply."""

from typing import Final, TypedDict

from prefect.cache_policies import NO_CACHE, CachePolicy


class UncachedOptions(TypedDict):
    """The keyword arguments of ``prefect.task`` that keep a result in memory."""

    persist_result: bool
    cache_policy: CachePolicy


UNCACHED: Final = UncachedOptions(persist_result=False, cache_policy=NO_CACHE)
