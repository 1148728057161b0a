"""Which permission each RPC needs, on which fleet: one table, complete by test.

A call is checked between its parsing and its handler, so that the fleet is known. An operation of a Batch is checked
by itself. Without an auth file every call passes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from google.protobuf.message import Message

from blockyard_server.domain.errors import InvalidRequest, NotPermitted
from blockyard_server.domain.policy import Permission
from blockyard_server.rpc.auth.principal import Principal, current_principal
from blockyard_server.rpc.names import is_id

Check = Callable[[Message], None]
"""Raises NotPermitted, and InvalidRequest for a request that names no fleet."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a method needs."""

    permission: Permission | Callable[[Any], Permission]
    """Which, or which by the request."""
    fields: tuple[str, ...]
    """Where the request says the fleet: the first of these paths that is set. Each is a resource's name or, if it ends
    with `_id`, the fleet's id."""


OF_ANYBODY: Final = None
"""Needs no permission: it is about the caller itself, or it shows only what the caller may see."""


def _of_repair(request: Any) -> Permission:
    return Permission.REPAIR if request.apply else Permission.PLAN_REPAIR


RULES: Final[Mapping[str, Rule | None]] = MappingProxyType(
    {
        "blockyard.v1.Allocator.Acquire": Rule(Permission.ACQUIRE, ("fleet",)),
        "blockyard.v1.Allocator.Release": Rule(Permission.ACQUIRE, ("name", "fleet")),
        "blockyard.v1.Allocator.Renew": Rule(Permission.ACQUIRE, ("name",)),
        "blockyard.v1.Allocator.Batch": OF_ANYBODY,  # each operation by itself
        "blockyard.v1.Allocator.Describe": Rule(Permission.READ, ("fleet",)),
        "blockyard.v1.Allocator.GetAllocation": Rule(Permission.READ, ("name",)),
        "blockyard.v1.Allocator.ListAllocations": Rule(Permission.READ, ("parent",)),
        "blockyard.v1.Allocator.Watch": Rule(Permission.READ, ("fleet",)),
        "blockyard.v1.FleetAdmin.CreateFleet": Rule(Permission.FLEETS, ("fleet_id",)),
        "blockyard.v1.FleetAdmin.GetFleet": Rule(Permission.READ, ("name",)),
        "blockyard.v1.FleetAdmin.ListFleets": OF_ANYBODY,  # shows those that may be read
        "blockyard.v1.FleetAdmin.UpdateFleet": Rule(Permission.FLEETS, ("fleet.name",)),
        "blockyard.v1.FleetAdmin.DeleteFleet": Rule(Permission.FLEETS, ("name",)),
        "blockyard.v1.FleetAdmin.CreateInstance": Rule(Permission.INSTANCES, ("parent",)),
        "blockyard.v1.FleetAdmin.GetInstance": Rule(Permission.READ, ("name",)),
        "blockyard.v1.FleetAdmin.ListInstances": Rule(Permission.READ, ("parent",)),
        "blockyard.v1.FleetAdmin.UpdateInstance": Rule(Permission.INSTANCES, ("instance.name",)),
        "blockyard.v1.FleetAdmin.DeleteInstance": Rule(Permission.INSTANCES, ("name",)),
        "blockyard.v1.FleetAdmin.CordonInstance": Rule(Permission.INSTANCES, ("name",)),
        "blockyard.v1.FleetAdmin.UncordonInstance": Rule(Permission.INSTANCES, ("name",)),
        "blockyard.v1.Ledger.ListEvents": Rule(Permission.READ, ("parent",)),
        "blockyard.v1.Ledger.Verify": Rule(Permission.VERIFY, ("fleet",)),
        "blockyard.v1.Ledger.Repair": Rule(_of_repair, ("fleet",)),
        "blockyard.v1.Access.WhoAmI": OF_ANYBODY,
        "blockyard.v1.Access.CanI": OF_ANYBODY,
        "grpc.health.v1.Health.Check": OF_ANYBODY,
        "grpc.health.v1.Health.List": OF_ANYBODY,
        "grpc.health.v1.Health.Watch": OF_ANYBODY,
        "grpc.reflection.v1.ServerReflection.ServerReflectionInfo": OF_ANYBODY,
        "grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo": OF_ANYBODY,
    }
)


def check_of(method: str) -> Check | None:
    """The check of a method, by its full name; None if it needs no permission. Raises KeyError if it has no rule."""
    rule = RULES[method]
    if rule is None:
        return None
    permission = rule.permission

    def check(request: Message) -> None:
        principal = current_principal()
        if principal.is_known:
            needed = permission if isinstance(permission, Permission) else permission(request)
            expect_permitted(principal, needed, _fleet_of(request, rule.fields))

    return check


def expect_permitted(principal: Principal, permission: Permission, fleet: str) -> None:
    """Raises NotPermitted."""
    if permission not in principal.policy.on(fleet):
        raise NotPermitted(
            f"{principal.id} may not do this on fleet {fleet}: it takes the permission {permission.name}",
            permission=permission.name,
            fleet=f"fleets/{fleet}",
            principal=principal.id,
        )


def _fleet_of(request: Any, fields: tuple[str, ...]) -> str:
    """The id of the fleet that the request is about. Raises InvalidRequest if it has none: no fleet is every fleet."""
    for path in fields:
        value: Any = request
        for part in path.split("."):
            value = getattr(value, part)
        if value:
            parts = str(value).split("/")
            fleet = value if path.endswith("_id") else parts[1] if len(parts) > 1 and parts[0] == "fleets" else ""
            if not is_id(fleet):
                raise InvalidRequest((path, "must name a fleet, as in fleets/{fleet}"))
            return str(fleet)
    raise InvalidRequest((fields[-1], "must name a fleet, as in fleets/{fleet}"))
