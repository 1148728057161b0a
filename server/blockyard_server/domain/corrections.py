"""What a Repair changes, one record at a time."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class CorrectionKind(StrEnum):
    """What is changed. `Correction.Kind` in ledger.proto says what each sets, and what follows from it."""

    COUNTER_SET = "COUNTER_SET"
    BLOCK_FREED = "BLOCK_FREED"
    BLOCK_HELD = "BLOCK_HELD"
    TOKEN_RECORDED = "TOKEN_RECORDED"
    JOURNAL_RECONCILED = "JOURNAL_RECONCILED"
    SHAPE_RECONCILED = "SHAPE_RECONCILED"
    MEMORY_RELOADED = "MEMORY_RELOADED"
    JOURNAL_SETTLED = "JOURNAL_SETTLED"


@dataclass(frozen=True, slots=True)
class Correction:
    """One change of one record. What its kind does not set is None."""

    kind: CorrectionKind
    instance: str | None = None
    allocation: int | None = None
    block: int | None = None
    before: int | None = None
    after: int | None = None


def encode_correction(correction: Correction) -> dict[str, Any]:
    """Its form in the journal: what is set."""
    c = correction
    fields = {
        "instance": c.instance,
        "allocation": c.allocation,
        "block": c.block,
        "before": c.before,
        "after": c.after,
    }
    return {"kind": c.kind.value} | {name: value for name, value in fields.items() if value is not None}


def decode_correction(body: dict[str, Any]) -> Correction:
    """A correction out of its form in the journal. Raises ValueError, KeyError."""
    return Correction(
        CorrectionKind(body["kind"]),
        body.get("instance"),
        body.get("allocation"),
        body.get("block"),
        body.get("before"),
        body.get("after"),
    )
