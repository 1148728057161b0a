"""The calls of the service Ledger: the journal, and the check that all records agree."""

from collections.abc import Iterable
from typing import Final

from blockyard._allocator import PAGE_SIZE
from blockyard._arguments import not_empty
from blockyard._call import Call, Listing, Method, Page
from blockyard._codec import decode_events_page, decode_repair_report, decode_report, encode_event_kinds
from blockyard._names import fleet_name, instance_name
from blockyard.enums import EventKind
from blockyard.types import Event, RepairReport, VerifyReport
from blockyard.v1 import ledger_pb2 as pb

VERIFY_TIMEOUT_S: Final = 300.0
"""How long a check may take unless the caller says otherwise: it grows with the fleet's journal."""

_SERVICE = "/blockyard.v1.Ledger"
LIST_EVENTS = Method(f"{_SERVICE}/ListEvents", pb.ListEventsRequest, pb.ListEventsResponse)
VERIFY = Method(f"{_SERVICE}/Verify", pb.VerifyRequest, pb.VerifyResponse)
REPAIR = Method(f"{_SERVICE}/Repair", pb.RepairRequest, pb.RepairResponse)


def list_events(
    fleet: str,
    *,
    from_revision: int = 0,
    kinds: Iterable[EventKind] | None = None,
    holder: str | None = None,
    instance: str | None = None,
    page_size: int = PAGE_SIZE,
    timeout_s: float | None = None,
) -> Listing[Event]:
    """A fleet's journal in ascending order of the revision, read page by page as you iterate.

    Args:
        fleet: Which fleet; it may have been deleted.
        from_revision: From this revision on. 0: from the first that is kept.
        kinds: Only these kinds. None: all.
        holder: Only events of this holder's allocations. None: any.
        instance: Only events of this instance or of blocks on it. None: any.
        page_size: How many to ask for at a time, up to 1000.
        timeout_s: How long each page may take, retries included. None: as the client says.

    Raises:
        FleetNotFound: There never was such a fleet.
        Compacted: The journal is no longer kept from that revision on.
        CallFailed: Any other refusal.
        ValueError: A filter is empty, or a name is that of another kind of resource.
        TypeError: One string where several are asked for.
    """
    request = pb.ListEventsRequest(
        parent=fleet_name(fleet),
        from_revision=from_revision,
        kinds=encode_event_kinds(kinds),
        holder=not_empty(holder, "holder"),
        instance=None if instance is None else instance_name(fleet, instance),
        page_size=page_size,
    )

    def page(page_token: str) -> Call[Page[Event]]:
        asked = pb.ListEventsRequest(page_token=page_token)
        asked.MergeFrom(request)
        return LIST_EVENTS.call(asked, decode_events_page, timeout_s)

    return Listing(page)


def verify(fleet: str, *, timeout_s: float = VERIFY_TIMEOUT_S) -> Call[VerifyReport]:
    """Compares all records of a fleet at one revision. Reports each difference, and changes nothing.

    Args:
        fleet: Which fleet.
        timeout_s: How long it may take in all, retries included.

    Raises:
        FleetNotFound: There is no such fleet.
        CallFailed: Any other refusal.
    """
    return VERIFY.call(pb.VerifyRequest(fleet=fleet_name(fleet)), decode_report, timeout_s)


def repair(fleet: str, *, apply: bool = False, timeout_s: float = VERIFY_TIMEOUT_S) -> Call[RepairReport]:
    """Says what would make a fleet's records agree again and, only with `apply`, does it. Repeating it is harmless.

    A live allocation keeps its blocks unless another live one has the same block; such a conflict is left as it is.
    A fleet whose writes were stopped is served again once nothing is left to repair.

    Args:
        fleet: Which fleet.
        apply: False only says what it would change.
        timeout_s: How long it may take in all, retries included.

    Raises:
        FleetNotFound: There is no such fleet.
        InvariantViolated: The fleet's own record cannot be read, or the database refuses the repair.
        CallFailed: Any other refusal.
    """
    return REPAIR.call(pb.RepairRequest(fleet=fleet_name(fleet), apply=apply), decode_repair_report, timeout_s)
