"""FleetAdmin's requests out of their messages. Every function raises InvalidRequest, naming all bad fields.

An update's mask says which fields change. Without a mask those change that are set in the message, and
what proto3 cannot tell apart from unset (0, empty) needs the mask. A mask that names no field is refused.
"""

from collections.abc import Collection
from typing import Final

from blockyard.v1 import fleet_admin_pb2 as pb
from blockyard.v1 import resources_pb2
from blockyard_server.domain.requests import (
    CreateFleet,
    CreateInstance,
    DeleteFleet,
    DeleteInstance,
    FleetFields,
    InstanceFields,
    InstanceState,
    PlacementStrategy,
    UpdateFleet,
    UpdateInstance,
)
from blockyard_server.rpc.enums import STRATEGIES, STRATEGY_RULE
from blockyard_server.rpc.fields import Violations, decode_etag, decode_labels, decode_ttl_us, quoted, raise_if_any
from blockyard_server.rpc.instance_fields import PATHS, decode_instance_fields
from blockyard_server.rpc.names import decode_fleet, decode_id, decode_instance, encode_fleet_name, encode_instance_name

_WithEtag = (
    resources_pb2.Fleet
    | resources_pb2.Instance
    | pb.DeleteFleetRequest
    | pb.DeleteInstanceRequest
    | pb.CordonInstanceRequest
    | pb.UncordonInstanceRequest
)

_FLEET_PATHS: Final = ("labels", "default_placement_strategy", "default_ttl", "max_ttl")


def decode_create_fleet(request: pb.CreateFleetRequest) -> CreateFleet:
    """A new fleet, with defaults for what is not set."""
    bad: Violations = []
    fleet = decode_id(request.fleet_id, "fleet_id", bad)
    if request.fleet.name and request.fleet.name != encode_fleet_name(fleet):
        bad.append(("fleet.name", "must be empty or agree with fleet_id"))
    changes = _decode_fleet_fields(request.fleet, _FLEET_PATHS, bad)
    raise_if_any(bad)
    return CreateFleet(fleet, FleetFields(**changes))  # type: ignore[arg-type]  # each by its name, as decoded below


def decode_update_fleet(request: pb.UpdateFleetRequest) -> UpdateFleet:
    """Changes of a fleet."""
    bad: Violations = []
    message = request.fleet
    fleet = decode_fleet(message.name, "fleet.name", bad)
    paths = _decode_mask(request, _FLEET_PATHS, bad)
    if paths is None:
        paths = [field.name for field, _ in message.ListFields() if field.name in _FLEET_PATHS]
    changes = _decode_fleet_fields(message, paths, bad)
    etag = decode_etag(_etag_of(message), "fleet.etag", bad)
    raise_if_any(bad)
    return UpdateFleet(fleet, changes, etag)


def decode_delete_fleet(request: pb.DeleteFleetRequest) -> DeleteFleet:
    """A fleet's deletion."""
    bad: Violations = []
    fleet = decode_fleet(request.name, "name", bad)
    etag = decode_etag(_etag_of(request), "etag", bad)
    raise_if_any(bad)
    return DeleteFleet(fleet, etag, request.force)


def decode_create_instance(request: pb.CreateInstanceRequest) -> CreateInstance:
    """A new instance, ACTIVE unless it says otherwise."""
    bad: Violations = []
    fleet = decode_fleet(request.parent, "parent", bad)
    instance = decode_id(request.instance_id, "instance_id", bad)
    message = request.instance
    if message.name and message.name != encode_instance_name(fleet, instance):
        bad.append(("instance.name", "must be empty or agree with parent and instance_id"))
    paths = [path for path in PATHS if path != "state" or message.state]
    changes = decode_instance_fields(message, paths, bad)
    raise_if_any(bad)
    return CreateInstance(
        fleet,
        instance,
        InstanceFields(**changes),  # type: ignore[arg-type]  # each by its name, as decoded below
    )


def decode_update_instance(request: pb.UpdateInstanceRequest) -> UpdateInstance:
    """Changes of an instance."""
    bad: Violations = []
    message = request.instance
    fleet, instance = decode_instance(message.name, "instance.name", bad)
    paths = _decode_mask(request, PATHS, bad)
    if paths is None:
        paths = [field.name for field, _ in message.ListFields() if field.name in PATHS]
    changes = decode_instance_fields(message, paths, bad)
    etag = decode_etag(_etag_of(message), "instance.etag", bad)
    raise_if_any(bad)
    return UpdateInstance(fleet, instance, changes, etag)


def decode_delete_instance(request: pb.DeleteInstanceRequest) -> DeleteInstance:
    """An instance's removal."""
    fleet, instance, etag = _decode_instance_and_etag(request)
    return DeleteInstance(fleet, instance, etag)


def decode_set_state(
    request: pb.CordonInstanceRequest | pb.UncordonInstanceRequest, state: InstanceState
) -> UpdateInstance:
    """Cordoning or uncordoning: an update of the state alone."""
    fleet, instance, etag = _decode_instance_and_etag(request)
    return UpdateInstance(fleet, instance, {"state": state}, etag)


def _decode_instance_and_etag(
    request: pb.DeleteInstanceRequest | pb.CordonInstanceRequest | pb.UncordonInstanceRequest,
) -> tuple[str, str, str | None]:
    bad: Violations = []
    fleet, instance = decode_instance(request.name, "name", bad)
    etag = decode_etag(_etag_of(request), "etag", bad)
    raise_if_any(bad)
    return fleet, instance, etag


def _etag_of(message: _WithEtag) -> str | None:
    return message.etag if message.HasField("etag") else None


def _decode_mask(
    request: pb.UpdateFleetRequest | pb.UpdateInstanceRequest, known: tuple[str, ...], bad: Violations
) -> Collection[str] | None:
    """The paths that the mask names, None where there is no mask."""
    if not request.HasField("update_mask"):
        return None
    paths = set(request.update_mask.paths)
    if not paths:
        bad.append(("update_mask", "names no field; leave it out to change those that are set"))
    unknown = sorted(paths.difference(known, "*"))
    if unknown:
        problem = f"{quoted(unknown[0])} is not a field that can be changed; those are {', '.join(known)}, or *"
        bad.append(("update_mask", problem))
    return known if "*" in paths else sorted(paths.intersection(known))


def _decode_fleet_fields(fleet: resources_pb2.Fleet, paths: Collection[str], bad: Violations) -> dict[str, object]:
    """The named fields, by their names in FleetFields."""
    fields: dict[str, object] = {}
    if "labels" in paths:
        fields["labels"] = decode_labels(fleet.labels, "fleet.labels", bad)
    if "default_placement_strategy" in paths:
        if fleet.default_placement_strategy not in STRATEGIES:
            bad.append(("fleet.default_placement_strategy", STRATEGY_RULE))
        strategy = STRATEGIES.get(fleet.default_placement_strategy)
        fields["default_placement_strategy"] = strategy or PlacementStrategy.BEST_FIT
    if "default_ttl" in paths:
        has_ttl = fleet.HasField("default_ttl")
        fields["default_ttl_us"] = decode_ttl_us(fleet.default_ttl, "fleet.default_ttl", bad) if has_ttl else None
    if "max_ttl" in paths:
        has_ttl = fleet.HasField("max_ttl")
        fields["max_ttl_us"] = decode_ttl_us(fleet.max_ttl, "fleet.max_ttl", bad) if has_ttl else None
    default_ttl_us, max_ttl_us = fields.get("default_ttl_us"), fields.get("max_ttl_us")
    if isinstance(default_ttl_us, int) and isinstance(max_ttl_us, int) and default_ttl_us > max_ttl_us:
        bad.append(("fleet.default_ttl", "must not exceed max_ttl"))
    return fields
