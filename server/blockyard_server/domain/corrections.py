"""What a Repair changes, one record at a time."""

from dataclasses import dataclass
from enum import StrEnum


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
