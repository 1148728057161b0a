"""Decides what operators do to instances."""

from dataclasses import replace
from typing import Any

from blockyard_server.domain import limits
from blockyard_server.domain.answers import Deleted, InstanceRecord
from blockyard_server.domain.errors import InstanceExists, InstanceInUse, LimitExceeded
from blockyard_server.domain.events import InstanceCreated, InstanceDeleted, InstanceUpdated
from blockyard_server.domain.fleet import FleetState
from blockyard_server.domain.fleets import check_etag, differing_names
from blockyard_server.domain.records import Records
from blockyard_server.domain.requests import CreateInstance, DeleteInstance, UpdateInstance


def decide_create_instance(
    state: FleetState, _records: Records, request: CreateInstance, now_us: int
) -> tuple[InstanceRecord, InstanceCreated | None]:
    """Registers an instance; a no-op if it is there with the same shape, in whatever state.

    Raises FleetNotFound, InstanceExists, LimitExceeded.
    """
    state.existing_fields()
    there = state.index.by_name.get(request.instance)
    name = f"fleets/{state.fleet}/instances/{request.instance}"
    if there is not None:
        differing = differing_names(there.fields, replace(request.fields, state=there.fields.state))
        if differing:
            message = f"{name} exists with another shape ({differing}); update it instead"
            raise InstanceExists(message, instance=name, fields=differing)
        return state.instance_record(there), None
    if len(state.index.by_name) >= limits.MAX_INSTANCES_PER_FLEET:
        most = limits.MAX_INSTANCES_PER_FLEET
        message = f"this fleet has {most} instances, the most that a fleet keeps; use another fleet"
        raise LimitExceeded(message, limit="instances_per_fleet", maximum=most)
    event = InstanceCreated(state.revision + 1, now_us, request.instance, state.next_order, request.fields)
    record = InstanceRecord(
        state.fleet, request.instance, event.order, request.fields, 0, event.revision, now_us, now_us
    )
    return record, event


def decide_update_instance(
    state: FleetState, _records: Records, request: UpdateInstance, now_us: int
) -> tuple[InstanceRecord, InstanceUpdated | None]:
    """Changes an instance's own fields. Raises FleetNotFound, InstanceNotFound, InstanceInUse, EtagMismatch."""
    instance = state.instance(request.instance)
    name = f"fleets/{state.fleet}/instances/{request.instance}"
    check_etag(name, instance.config_revision, request.etag)
    record = state.instance_record(instance)
    changes: dict[str, Any] = dict(request.changes)
    fields = replace(record.fields, **changes)
    if fields == record.fields:
        return record, None
    cut_off = instance.busy >> fields.total_blocks
    if cut_off:
        held = cut_off.bit_count()
        message = f"{held} of the blocks of {name} that would go are held; release them first"
        raise InstanceInUse(message, instance=name, held_blocks=held)
    event = InstanceUpdated(state.revision + 1, now_us, request.instance, fields)
    return replace(record, fields=fields, config_revision=event.revision, update_time_us=now_us), event


def decide_delete_instance(
    state: FleetState, _records: Records, request: DeleteInstance, now_us: int
) -> tuple[Deleted, InstanceDeleted]:
    """Removes an instance that holds nothing. Raises FleetNotFound, InstanceNotFound, InstanceInUse, EtagMismatch."""
    instance = state.instance(request.instance)
    name = f"fleets/{state.fleet}/instances/{request.instance}"
    check_etag(name, instance.config_revision, request.etag)
    if instance.busy:
        held = instance.busy.bit_count()
        message = f"{held} block(s) of {name} are held; cordon it and release them first"
        raise InstanceInUse(message, instance=name, held_blocks=held)
    return Deleted(), InstanceDeleted(state.revision + 1, now_us, request.instance)
