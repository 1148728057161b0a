"""What of the spoiled requests is legal after all, and how it is answered: everything else is INVALID_REQUEST.

Keys are `Message.field`, or `request: path`, which goes before. Values are the kind of the case and the answer:
OK, or the reason of a refusal that is not about the field's form.
"""

from collections.abc import Iterable, Mapping

OK = "OK"

_ASCII = ("a space", "upward", "with a slash")
_TEXT = (*_ASCII, "not ASCII")


def _each(kinds: Iterable[str], answer: str) -> dict[str, str]:
    return dict.fromkeys(kinds, answer)


_PAGE_SIZE = _each(("zero", "huge"), OK)
# A guard or a filter may be absent. One that is there, but empty, is refused: it must not come to mean "any".
_ABSENT = {"absent": OK}
_ANY_HOLDER = {**_ABSENT, **_each(_TEXT, OK)}
_HOLDER_GUARD = {**_ABSENT, **_each(_TEXT, "NOT_HOLDER")}
_FENCING_GUARD = {**_ABSENT, "huge": "STALE_FENCING_TOKEN"}
_ETAG_GUARD = {**_ABSENT, **_each(_ASCII, "ETAG_MISMATCH")}
_LABELS = {"empty": OK, "a key with a slash": OK, **_each([f"a value {kind}" for kind in (*_ASCII, "empty")], OK)}

LEGAL: Mapping[str, Mapping[str, str]] = {
    # Acquire
    "AcquireRequest.idempotency_token": _each(_ASCII, OK),
    "AcquireRequest.holder": _each(_TEXT, OK),
    "AcquireRequest.placement_strategy": {"unspecified": OK},
    "Acquire: ttl.seconds": {"zero": OK},  # half a second is left
    "Acquire: ttl.nanos": {"zero": OK},
    "Batch of acquires: operations.acquire.ttl.seconds": {"zero": OK},
    "Batch of acquires: operations.acquire.ttl.nanos": {"zero": OK},
    "Acquire by requirements: ttl.seconds": {"zero": OK},
    "Acquire by requirements: ttl.nanos": {"zero": OK},
    "Acquire exclusively: ttl.seconds": {"zero": OK},
    "Acquire exclusively: ttl.nanos": {"zero": OK},
    "AcquireRequest.annotations": {
        "empty": OK,
        "a key with a slash": OK,
        **_each([f"a value {kind}" for kind in (*_TEXT, "empty", "with a newline")], OK),
    },
    "AcquireRequest.validate_only": {"flipped": OK},
    "Batch of acquires: operations.acquire.validate_only": {},
    "Demand.instances": {"zero": OK},
    "Demand.selector": {"empty": OK},
    "Demand.instance_names": {"empty": OK},
    "Acquire exclusively: demands.blocks": {"zero": OK},
    "Acquire: demands.exclusive": {"flipped": "NO_CAPACITY"},  # the one instance that it may have is busy
    "Batch of acquires: operations.acquire.demands.exclusive": {"flipped": "NO_CAPACITY"},
    "Acquire exclusively: demands.exclusive": {"flipped": OK},
    "LabelSelector.match_labels": {
        "empty": OK,
        "a key with a slash": "UNSATISFIABLE",
        **_each([f"a value {kind}" for kind in (*_ASCII, "empty")], "UNSATISFIABLE"),
    },
    "LabelSelector.match_expressions": {"empty": OK},
    "LabelExpression.key": {"with a slash": "UNSATISFIABLE"},
    "LabelExpression.values": _each([f"an element {kind}" for kind in (*_ASCII, "empty")], "UNSATISFIABLE"),
    # Release, Renew
    "ReleaseRequest.fleet": {"empty": OK},
    "Release by token: fleet": {},
    "ReleaseRequest.idempotency_token": _each(_ASCII, OK),  # an unknown token is cancelled
    "ReleaseRequest.placements": {"empty": OK},
    "ReleaseRequest.holder": _HOLDER_GUARD,
    "ReleaseRequest.fencing_token": _FENCING_GUARD,
    "Renew: ttl.seconds": {"zero": OK},
    "Renew: ttl.nanos": {"zero": OK},
    "Batch of renewals: operations.renew.ttl.seconds": {"zero": OK},
    "Batch of renewals: operations.renew.ttl.nanos": {"zero": OK},
    "RenewRequest.holder": _HOLDER_GUARD,
    "RenewRequest.fencing_token": _FENCING_GUARD,
    # Reads
    "DescribeRequest.view": {"unspecified": OK},
    "DescribeRequest.page_size": _PAGE_SIZE,
    "ListAllocationsRequest.page_size": _PAGE_SIZE,
    "ListAllocationsRequest.holder": _ANY_HOLDER,
    "ListAllocationsRequest.state": _ABSENT,
    "ListAllocationsRequest.instance": _ABSENT,
    "ListFleetsRequest.page_size": _PAGE_SIZE,
    "ListInstancesRequest.page_size": _PAGE_SIZE,
    "ListEventsRequest.page_size": _PAGE_SIZE,
    "ListEventsRequest.from_revision": {"zero": OK, "huge": OK},
    "ListEventsRequest.kinds": {"empty": OK},
    "ListEventsRequest.holder": _ANY_HOLDER,
    "ListEventsRequest.instance": _ABSENT,
    "WatchRequest.from_revision": {"zero": OK, "huge": OK},
    "WatchRequest.kinds": {"empty": OK},
    "WatchRequest.holder": _ANY_HOLDER,
    "WatchRequest.instance": _ABSENT,
    "Watch: progress_interval.seconds": {"zero": OK},
    "Watch: progress_interval.nanos": {"zero": OK},
    "RepairRequest.apply": {"flipped": OK},
    # Fleets and instances
    "CreateFleetRequest.fleet": {"empty": OK},
    "CreateFleet: fleet.name": {"empty": OK},
    "Fleet.labels": _LABELS,
    "Fleet.default_placement_strategy": {"unspecified": OK},
    "UpdateFleet: fleet.etag": _ETAG_GUARD,
    "FieldMask.paths": {"too many": OK},  # the same path, many times
    "DeleteFleetRequest.etag": _ETAG_GUARD,
    "DeleteFleetRequest.force": {"flipped": OK},
    "CreateInstance: instance.name": {"empty": OK},
    "CreateInstance: instance.state": {"unspecified": OK},
    "Instance.labels": _LABELS,
    "Instance.resources": {"empty": OK, "a value zero": OK},
    "UpdateInstance: instance.etag": _ETAG_GUARD,
    "DeleteInstanceRequest.etag": _ETAG_GUARD,
    "CordonInstanceRequest.etag": _ETAG_GUARD,
    "UncordonInstanceRequest.etag": _ETAG_GUARD,
}

IGNORED = frozenset(
    {
        "CreateFleet: fleet.etag",
        "CreateInstance: instance.etag",
        "Fleet.revision",
        "Fleet.halted",
        "Fleet.create_time",
        "Fleet.update_time",
        "Instance.busy_blocks",
        "Instance.idle_blocks",
        "Instance.order",
        "Instance.create_time",
        "Instance.update_time",
        "Timestamp.seconds",
        "Timestamp.nanos",
    }
)
"""Output only: whatever a request has there is legal, and means nothing."""

BLAMED_INSTEAD: Mapping[tuple[str, str], str] = {
    ("Acquire by requirements: demands.requirements", "empty"): "demands.blocks",
    ("Acquire by requirements: demands.exclusive", "flipped"): "demands.requirements",
}
"""Where two fields contradict each other, or one of two is missing, and the other one is named."""


def answer_to(request: str, path: str, field: str, kind: str) -> str:
    """OK or the reason that the case is answered with."""
    if not IGNORED.isdisjoint({field, f"{request}: {path}"}):
        return OK
    legal = LEGAL.get(f"{request}: {path}", LEGAL.get(field, {}))
    return legal.get(kind, "INVALID_REQUEST")
