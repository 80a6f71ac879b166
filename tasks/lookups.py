"""What a flow asks the registry before its first task, as tasks: a registry that is away for a minute is asked again.

Not kept for a run that goes on after an answer: an alias may name another version by then, and that must be seen.
"""

from prefect import task

from ranking.features import Feature
from ranking.results import ModelRef
from settings.effects import RegistryKnobs
from tasks import registry as models
from tasks.retries import RETRY
from tasks.uncached import UNCACHED


@task(name="find model", timeout_seconds=300, **RETRY.options, **UNCACHED)
def find_model(version_or_alias: str, registry: RegistryKnobs, workspace: str) -> ModelRef:
    """A version by number or alias.

    Raises:
        UnknownModel: there is none; the message lists what there is.
        RegistryUnavailable: no answer.
    """
    return models.find_model(version_or_alias, registry, workspace)


@task(name="features of a model", timeout_seconds=1800, **RETRY.options, **UNCACHED)
def features_read_by(ref: ModelRef | None, registry: RegistryKnobs, workspace: str) -> tuple[Feature, ...]:
    """The logged columns that a version reads; none without a version.

    Raises:
        TamperedBundle: its bundle is not the one that was registered.
        RegistryUnavailable: no answer.
    """
    return models.features_read_by(ref, registry, workspace)
