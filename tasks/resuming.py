"""How a flow run that waited for days goes on: what was done before is read again and not done again.

Use as ``@task(**RESUMED)`` and ``@flow(**RESUMABLE)``.
"""

from typing import Any, Final, TypedDict

from prefect.cache_policies import INPUTS, RUN_ID, CacheKeyFnPolicy, CachePolicy
from prefect.context import TaskRunContext


class TaskOptions(TypedDict):
    """The keyword arguments of ``prefect.task`` that make its result last."""

    persist_result: bool
    result_serializer: str
    cache_policy: CachePolicy


class FlowOptions(TypedDict):
    """The keyword arguments of ``prefect.flow`` that make its result last."""

    persist_result: bool
    result_serializer: str


def _name(context: TaskRunContext, inputs: dict[str, Any]) -> str:
    return str(context.task.name)


# The same task with the same inputs within the same run.  Prefect's default also looks at the task's source, so code
# edited during the wait would train another model under the approval of the first.  The name is part of it because
# two tasks may take the same inputs.
_SAME_CALL = INPUTS + RUN_ID + CacheKeyFnPolicy(cache_key_fn=_name)

# JSON and not pickle: a result that somebody else wrote into the shared storage must not run code here.
RESUMED: Final = TaskOptions(persist_result=True, result_serializer="json", cache_policy=_SAME_CALL)
RESUMABLE: Final = FlowOptions(persist_result=True, result_serializer="json")
