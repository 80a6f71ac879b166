"""Stored evidence: found again by what a person remembers of it, and worked out again from what it holds."""

import re
from typing import Any

from pydantic import ValidationError

from ranking.errors import ComparisonError, RegistryError, UnknownModel
from ranking.results import Evidence, ModelRef, Verdict
from ranking.values import Value, digest
from ranking.verdict import GateKnobs, decide
from tasks.adapters.registry import Registry

SHORTEST = 6
"""Fewest characters of a digest that name evidence."""


class KeptEvidence(Value):
    """Evidence as the registry keeps it."""

    ref: ModelRef
    digest: str
    evidence: Evidence


class Recheck(Value):
    """Whether stored evidence still comes out as it was stored."""

    recorded_digest: str
    digest: str
    recorded: Verdict
    verdict: Verdict
    difference: str | None

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return self.difference is None


def find(registry: Registry, identifier: str) -> KeptEvidence:
    """Find evidence by a version, an alias, or the first characters of its digest.

    Args:
        registry: where it is kept.
        identifier: a version or alias means the newest evidence about it; anything else is a digest's start.

    Raises:
        UnknownModel: nothing matches, several do, or the version was never compared.
        RegistryError: the stored file was changed after it was recorded.
    """
    try:
        ref = registry.model(identifier)
    except UnknownModel as error:
        return _by_digest(registry, identifier, error)
    return _newest(registry, ref)


def _by_digest(registry: Registry, start: str, unknown: UnknownModel) -> KeptEvidence:
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST},64}}", start):
        hint = f"Evidence is named by {SHORTEST} or more of the first characters of its digest (0-9, a-f)."
        raise UnknownModel(f"{unknown} {hint}") from unknown
    found = [
        (ref, known)
        for ref in registry.versions()
        for known in registry.evidence_digests(ref)
        if known.startswith(start)
    ]
    if not found:
        raise UnknownModel(f"{unknown} No evidence has a digest that starts so either.") from unknown
    if len(found) > 1:
        several = ", ".join(f"{known[:16]}… (version {ref.version})" for ref, known in found)
        raise UnknownModel(f"{start!r} is the start of {len(found)} digests: {several}. Give more characters.")
    ref, known = found[0]
    return KeptEvidence(ref=ref, digest=known, evidence=_read(registry, ref, known))


def _newest(registry: Registry, ref: ModelRef) -> KeptEvidence:
    newest = registry.evidence(ref)
    if newest is None:
        raise UnknownModel(
            f"Version {ref.version} of {ref.name!r} was never compared with a champion, so there is no evidence."
        )
    # Its own digest comes first; a record of an earlier feedloop, with fewer fields, has another one today.
    known = registry.evidence_digests(ref)
    for candidate in sorted(known, key=lambda name: name != newest.digest):
        if _read(registry, ref, candidate) == newest:
            return KeptEvidence(ref=ref, digest=candidate, evidence=newest)
    raise RegistryError(
        f"The newest evidence about version {ref.version} of {ref.name!r} is none of the {len(known)} that were "
        "recorded: it was changed afterwards. Compare again."
    )


def _read(registry: Registry, ref: ModelRef, known: str) -> Evidence:
    found = registry.evidence(ref, known)
    if found is None:
        raise UnknownModel(f"The evidence {known[:16]}… about version {ref.version} of {ref.name!r} is gone.")
    return found


def recheck(evidence: Evidence, recorded_digest: str) -> Recheck:
    """Decide again, from the stored comparison and the policy that was in force.

    Args:
        evidence: as stored.
        recorded_digest: the digest it was stored under.

    Raises:
        ComparisonError: the evidence does not hold a policy that this version of feedloop understands.
    """
    if not evidence.policy:
        raise ComparisonError(
            f"The evidence {recorded_digest[:16]}… keeps its policy's digest but not the policy, so it cannot be "
            "decided again. Compare the two models again."
        )
    try:
        knobs = GateKnobs.model_validate(evidence.policy.get("gate"))
    except ValidationError as error:
        first, code = error.errors()[0], evidence.code_version or "other code"
        raise ComparisonError(
            f"The policy of the evidence {recorded_digest[:16]}… was recorded by {code} "
            f"and means nothing here: gate.{'.'.join(str(part) for part in first['loc'])}: {first['msg']}. "
            "Check it with that version."
        ) from error
    again = evidence.model_copy(update={"verdict": decide(evidence.comparison, knobs)})
    return Recheck(
        recorded_digest=recorded_digest,
        digest=again.digest,
        recorded=evidence.verdict,
        verdict=again.verdict,
        difference=_difference(evidence, again, recorded_digest),
    )


def _difference(evidence: Evidence, again: Evidence, recorded_digest: str) -> str | None:
    """The first thing that does not come out the same, in words."""
    before, after = evidence.verdict.model_dump(mode="json"), again.verdict.model_dump(mode="json")
    differs = _first_difference(before, after, "verdict")
    if differs:
        return differs
    policy = digest(evidence.policy)
    if policy != evidence.policy_digest:
        return f"policy_digest was {evidence.policy_digest[:16]}…, and the stored policy has {policy[:16]}…"
    if again.digest != recorded_digest:
        return (
            f"the evidence digest was {recorded_digest[:16]}… and is {again.digest[:16]}…, with the same verdict: "
            f"it was recorded by {evidence.code_version or 'other code'}, which wrote other fields"
        )
    return None


def _first_difference(before: Any, after: Any, place: str) -> str | None:
    """Where two plain values differ first, in the order of their fields."""
    if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
        pairs = [(f"{place}.{key}", before[key], after[key]) for key in before]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = [(f"{place}[{number}]", *both) for number, both in enumerate(zip(before, after, strict=True))]
    else:
        return None if before == after else f"{place} was {before!r} and comes out as {after!r}"
    found = (_first_difference(old, new, where) for where, old, new in pairs)
    return next((differs for differs in found if differs), None)
