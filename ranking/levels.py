"""How strong a signal is, with room between entering an alarm and leaving it."""

from enum import StrEnum


class Level(StrEnum):
    """What one check says.  A signal that was not measured has no level: ``None``, never ``CALM``.

    An alarm begins at ``ALARM`` and ends at ``CALM``; ``RAISED``, in between, begins none and ends none,
    so that a value near the threshold does not switch it on and off.
    """

    CALM = "calm"
    RAISED = "raised"
    ALARM = "alarm"
