"""Rules on the whole holdout: log loss, ranking within users, calibration."""

from ranking.findings import Finding, Status
from ranking.guardrails.findings import finding, non_inferior, one_sided, unmeasured
from ranking.guardrails.knobs import GuardrailKnobs
from ranking.results import Comparison


def log_loss(comparison: Comparison, knobs: GuardrailKnobs) -> Finding | None:
    """Log loss is not worse than the champion's by the margin, a share of the champion's.

    The champion's own log loss is taken as known; its error would move the margin by a small share
    of the margin.
    """
    if comparison.champion is None:
        return None
    change, base = comparison.log_loss.difference, comparison.log_loss.champion
    if change is None or change.se is None or base is None or base.value <= 0:
        return unmeasured("log_loss", "Log loss", comparison.log_loss.note)
    bounds = one_sided(change, comparison, knobs.guardrail_confidence_level)
    low, high = bounds[0] / base.value, bounds[1] / base.value
    status, words = non_inferior(high, low, knobs.log_loss_margin_relative)
    return finding(
        "log_loss",
        status,
        f"Log loss changed by {change.value / base.value:+.2%} (one-sided bounds {low:+.2%} and {high:+.2%}): "
        f"{words} {knobs.log_loss_margin_relative:.2%}.",
        change_relative=change.value / base.value,
        low=low,
        high=high,
        margin=knobs.log_loss_margin_relative,
    )


def gauc(comparison: Comparison, knobs: GuardrailKnobs) -> Finding | None:
    """Ranking within users or requests is not worse, and better if AUC's gain is to count.

    Global AUC also rises when a model only learns who clicks much; such a gain leaves every user's
    list as it was, so by default GAUC must be proven to rise too.
    """
    if comparison.champion is None:
        return None
    change = comparison.gauc.difference
    if change is None or change.se is None:
        return unmeasured("gauc", "GAUC", comparison.gauc.note)
    low, high = one_sided(change, comparison, knobs.guardrail_confidence_level)
    status, words = non_inferior(-low, -high, knobs.gauc_margin)
    bounds = f"{change.value:+.4f} (one-sided bounds {low:+.4f} and {high:+.4f})"
    sentence = f"GAUC, the AUC within users or requests, changed by {bounds}: {words} {knobs.gauc_margin:.4f}."
    gained = comparison.auc.difference
    if gained is not None and gained.value > 0 and low <= 0:
        if status is Status.OK and knobs.gauc_gain_required:
            status = Status.UNPROVEN
        sentence = (
            f"AUC changed by {gained.value:+.4f} over all rows, but within users or requests (GAUC) by {bounds}, "
            f"{words} {knobs.gauc_margin:.4f} and not proven to rise: the gain may only tell users who click much "
            "from those who do not, and that puts no user's feed in a better order."
        )
    return finding("gauc", status, sentence, change=change.value, low=low, high=high, margin=-knobs.gauc_margin)


def calibration(comparison: Comparison, knobs: GuardrailKnobs) -> Finding | None:
    """Predicted / actual clicks are proven to lie within the band.

    Harm is a distance from 1 proven beyond ``calibration_harm``, unless the champion is further
    away still: when the click rate moved under both, replacing the worse one is no harm.
    """
    ratio, before = comparison.calibration.challenger, comparison.calibration.champion
    if ratio is None or ratio.se is None:
        return unmeasured("calibration", "Predicted / actual clicks", comparison.calibration.note)
    low, high = one_sided(ratio, comparison, knobs.guardrail_confidence_level)
    off = low > 1 + knobs.calibration_harm or high < 1 - knobs.calibration_harm
    band = f"within {knobs.calibration_low:.2f} to {knobs.calibration_high:.2f}"
    if off and before is not None and abs(ratio.value - 1) >= abs(before.value - 1):
        status, words = Status.HARM, f"proven off by more than {knobs.calibration_harm:.0%}"
    elif low >= knobs.calibration_low and high <= knobs.calibration_high:
        status, words = Status.OK, f"proven {band}"
    else:
        status, words = Status.UNPROVEN, f"not proven {band}"
    champion = f"; the champion's are {before.value:.3f}" if before else ""
    return finding(
        "calibration",
        status,
        f"Predicted / actual clicks are {ratio.value:.3f} (one-sided bounds {low:.3f} and {high:.3f}): "
        f"{words}{champion}.",
        ratio=ratio.value,
        low=low,
        high=high,
        champion=before.value if before else None,
    )
