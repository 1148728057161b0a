"""A fleet held still for who compares its records: Verify, Repair and the audit in the background."""

from dataclasses import dataclass

from blockyard_server.domain.audit import Memory
from blockyard_server.engine.store_protocol import Evidence


@dataclass(frozen=True, slots=True)
class VerifySnapshot:
    """A fleet's records and the server's memory of it at one and the same revision.

    `memory` is (total_blocks, set of held blocks) by instance.
    """

    evidence: Evidence
    memory_revision: int
    memory: Memory
    unloadable: str | None = None
    """Why the fleet cannot be brought into memory."""
    halted: bool = False
