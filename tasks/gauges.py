"""What the gate measured beside what it allows: the numbers that the evidence picture draws."""

from ranking.findings import Finding, Status
from ranking.measurements import Estimate
from ranking.results import Comparison, Verdict
from ranking.values import Value
from ranking.verdict import GateKnobs


class Limit(Value):
    """A threshold on a gauge's axis."""

    at: float
    words: str
    forbids: bool = True


class Gauge(Value):
    """One gating number with its bounds and thresholds; ``value`` is None when it was not measured."""

    name: str
    status: Status
    value: float | None = None
    low: float | None = None
    high: float | None = None
    champion: float | None = None
    limits: tuple[Limit, ...] = ()
    percent: bool = False
    note: str = ""


def gauges(comparison: Comparison, verdict: Verdict, gate: GateKnobs) -> tuple[Gauge, ...]:
    """The numbers that decide, the AUC first; bounds are those that the rules used.

    Args:
        comparison: what was measured.
        verdict: its findings give the one-sided bounds and the statuses.
        gate: its thresholds.
    """
    findings = {finding.rule: finding for finding in verdict.findings}
    if comparison.champion is None:
        return _first_auc(comparison, gate), _calibration(comparison, findings, gate)
    return (
        _auc(comparison, gate),
        _gauc(comparison, findings, gate),
        _log_loss(comparison, findings, gate),
        _calibration(comparison, findings, gate),
    )


def _auc(comparison: Comparison, gate: GateKnobs) -> Gauge:
    limits = (
        Limit(at=-gate.max_auc_degradation, words="rejected below"),
        Limit(at=gate.min_auc_improvement, words="needed to promote", forbids=False),
    )
    gain = comparison.auc.difference
    if gain is None:
        return Gauge(name="ΔAUC", status=Status.UNPROVEN, limits=limits, note=comparison.auc.note)
    status = Status.UNPROVEN
    if gain.value < -gate.max_auc_degradation:
        status = Status.HARM
    elif gain.value >= gate.min_auc_improvement and gain.low is not None and gain.low > 0:
        status = Status.OK
    return _estimated("ΔAUC", gain, status, limits)


def _first_auc(comparison: Comparison, gate: GateKnobs) -> Gauge:
    limits = (Limit(at=gate.min_first_auc, words="floor of a first model"),)
    area = comparison.auc.challenger
    if area is None:
        return Gauge(name="AUC", status=Status.UNPROVEN, limits=limits, note=comparison.auc.note)
    return _estimated("AUC", area, Status.OK if area.value >= gate.min_first_auc else Status.HARM, limits)


def _gauc(comparison: Comparison, findings: dict[str, Finding], gate: GateKnobs) -> Gauge:
    limits = [Limit(at=-gate.gauc_margin, words="harm below")]
    if gate.gauc_gain_required:
        limits.append(Limit(at=0.0, words="bound must lie above", forbids=False))
    return _found("ΔGAUC", findings.get("gauc"), "change", tuple(limits), note=comparison.gauc.note)


def _log_loss(comparison: Comparison, findings: dict[str, Finding], gate: GateKnobs) -> Gauge:
    limits = (Limit(at=gate.log_loss_margin_relative, words="harm above"),)
    found = findings.get("log_loss")
    return _found("Δlog loss, relative", found, "change_relative", limits, note=comparison.log_loss.note, percent=True)


def _calibration(comparison: Comparison, findings: dict[str, Finding], gate: GateKnobs) -> Gauge:
    limits = (
        Limit(at=gate.calibration_low, words="lowest"),
        Limit(at=gate.calibration_high, words="highest"),
    )
    return _found(
        "predicted / actual clicks", findings.get("calibration"), "ratio", limits, note=comparison.calibration.note
    )


def _estimated(name: str, measured: Estimate, status: Status, limits: tuple[Limit, ...]) -> Gauge:
    return Gauge(name=name, status=status, value=measured.value, low=measured.low, high=measured.high, limits=limits)


def _found(
    name: str, found: Finding | None, key: str, limits: tuple[Limit, ...], *, note: str, percent: bool = False
) -> Gauge:
    numbers = found.numbers if found else {}
    return Gauge(
        name=name,
        status=found.status if found else Status.UNPROVEN,
        value=numbers.get(key),
        low=numbers.get("low"),
        high=numbers.get("high"),
        champion=numbers.get("champion"),
        limits=limits,
        percent=percent,
        note=note or "not measured",
    )
