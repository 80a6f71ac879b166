"""Every error feedloop raises on purpose.

::

    FeedloopError
    ├── SettingsError                 a knob is wrong, unknown or missing
    ├── DataError                     the interaction log cannot be used
    │   ├── UnreadableData            not there, not parquet, corrupt
    │   ├── MissingColumn             a role or feature names a column that is not there
    │   ├── InvalidInteractions       types, nulls, duplicates, labels, times, one class
    │   └── EmptyWindow               no row between the window's start and the cut-off
    ├── SplitError                    no fair train / validation / holdout can be cut
    │   ├── LeakageError              the holdout overlaps what a model was trained on
    │   └── ImmatureLabels            the holdout's last labels are not final yet
    ├── TrainingError                 the fit diverged or had nothing to learn from
    ├── BundleError                   a model bundle cannot be used
    │   └── TamperedBundle            bytes do not match the manifest or the expected digest
    ├── FeaturesError                 a table of serving features cannot be used
    ├── ComparisonError               the two models cannot be compared fairly
    │   └── MismatchedRows            they did not score the same rows
    ├── RegistryError                 the registry answered, and the answer is no
    │   ├── RegistryUnavailable       the registry did not answer (transient; it is retried)
    │   ├── AccessDenied              this identity may not do that
    │   ├── LedgerBroken              the history of who serves was edited, or an entry is gone
    │   └── UnknownModel              no such version or alias
    ├── PromotionError                the champion stays as it is
    │   ├── PromotionRefused          the verdict or the policy says no
    │   │   └── ApprovalRefused       the approval does not count
    │   │       ├── WrongEvidence     it was given for something else than would be promoted
    │   │       ├── ApprovalExpired   it came, or is used, too late
    │   │       ├── ApprovalReused    it has been used up
    │   │       ├── SelfApproval      the requester approved
    │   │       ├── UnknownApprover   not somebody who may approve
    │   │       └── TooFewApprovals   not enough different people approved
    │   ├── StaleChampion             the champion changed since it was compared
    │   └── NothingToAnswer           no such question waits for an answer, or several do
    ├── RollbackError                 there is nothing healthy to go back to
    ├── RetentionError                a version that must be kept would be deleted
    ├── StorageError                  a file or folder cannot be written
    │   └── StorageUnavailable        the storage did not answer (transient; it is retried)
    ├── GatewayUnavailable            the gateway does not answer, or refuses a simulation's requests
    └── ServerUnavailable             Prefect's server does not answer, or does not let us in

Each message says what happened, with the numbers, and what to do.  Errors of other libraries are
translated once, in the adapter that calls them.
"""


class FeedloopError(Exception):
    """Root of the tree.  ``exit_code`` is what the command line exits with."""

    exit_code = 1


class SettingsError(FeedloopError):
    """Raised when a knob is wrong, unknown or missing."""

    exit_code = 2


class DataError(FeedloopError):
    """Raised when the interaction log cannot be used."""

    exit_code = 3


class UnreadableData(DataError):
    """Raised when the data are not there, are not parquet, or are corrupt."""


class MissingColumn(DataError):
    """Raised when a role or a feature names a column that the data do not have."""


class InvalidInteractions(DataError):
    """Raised when rows break the contract: types, nulls, duplicates, labels, times, one class."""


class EmptyWindow(DataError):
    """Raised when no row lies between the window's start and the cut-off."""


class SplitError(FeedloopError):
    """Raised when no fair train, validation and holdout can be cut."""

    exit_code = 3


class LeakageError(SplitError):
    """Raised when the holdout overlaps what one of the models was trained on."""


class ImmatureLabels(SplitError):
    """Raised when the holdout ends so late that its last labels are not final yet."""


class TrainingError(FeedloopError):
    """Raised when the fit diverged or had nothing to learn from."""

    exit_code = 4


class BundleError(FeedloopError):
    """Raised when a model bundle cannot be used."""

    exit_code = 5


class TamperedBundle(BundleError):
    """Raised when a bundle's bytes do not match its manifest or the expected digest."""


class FeaturesError(FeedloopError):
    """Raised when a table of serving features is missing, was changed, or does not fit the request."""

    exit_code = 5


class ComparisonError(FeedloopError):
    """Raised when two models cannot be compared fairly."""

    exit_code = 4


class MismatchedRows(ComparisonError):
    """Raised when the two models did not score the same rows in the same order."""


class RegistryError(FeedloopError):
    """Raised when the registry answered, and the answer is no."""

    exit_code = 6


class RegistryUnavailable(RegistryError):
    """Raised when the registry did not answer.  Transient: tasks retry it.

    It never means "there is no champion".
    """


class AccessDenied(RegistryError):
    """Raised when the registry does not let this identity do what was asked."""


class LedgerBroken(RegistryError):
    """Raised when the history of who serves cannot be trusted: an entry was edited or is gone."""


class UnknownModel(RegistryError):
    """Raised when a version or an alias does not exist."""


class PromotionError(FeedloopError):
    """Raised when the champion stays as it is."""

    exit_code = 7


class PromotionRefused(PromotionError):
    """Raised when the verdict or the policy says no."""


class ApprovalRefused(PromotionRefused):
    """Raised when an approval does not count; each way has a name of its own."""


class WrongEvidence(ApprovalRefused):
    """Raised when the approval was given for other evidence than the promotion rests on."""


class ApprovalExpired(ApprovalRefused):
    """Raised when the approval came, or is used, after its time."""


class ApprovalReused(ApprovalRefused):
    """Raised when the approval has been used up by an earlier promotion."""


class SelfApproval(ApprovalRefused):
    """Raised when whoever asked for the promotion approved it, and the policy forbids that."""


class UnknownApprover(ApprovalRefused):
    """Raised when the approver is not one of those who may approve."""


class TooFewApprovals(ApprovalRefused):
    """Raised when fewer different people approved than the policy asks for."""


class StaleChampion(PromotionError):
    """Raised when the champion changed since it was compared."""


class NothingToAnswer(PromotionError):
    """Raised when no question waits for the given answer: it is unknown or answered already, or several match."""


class RetentionError(FeedloopError):
    """Raised when a version that must be kept would be deleted."""

    exit_code = 7


class RollbackError(FeedloopError):
    """Raised when there is nothing healthy to go back to."""

    exit_code = 7


class StorageError(FeedloopError):
    """Raised when a file or a folder cannot be written."""

    exit_code = 8


class StorageUnavailable(StorageError):
    """Raised when the place of files did not answer.  Transient: it is retried."""


class ServerUnavailable(FeedloopError):
    """Raised when Prefect's server does not answer, or does not let us in."""

    exit_code = 9


class GatewayUnavailable(FeedloopError):
    """Raised when the gateway does not start or answer, or refuses the requests of a simulation."""

    exit_code = 9
