"""The servicer of `blockyard.v1.Access`: who the caller is, and what it may do."""

from typing import Any, Final

import grpc

from blockyard.v1 import access_pb2 as pb
from blockyard.v1 import access_pb2_grpc
from blockyard_server.domain.policy import Permission
from blockyard_server.rpc.auth.principal import current_principal
from blockyard_server.rpc.fields import Violations, raise_if_any
from blockyard_server.rpc.names import decode_fleet

_Context = grpc.aio.ServicerContext[Any, Any]

END_OF_TIME_S: Final = 253_402_300_799
"""The last second of the year 9999: a Timestamp says no later one."""
_PERMISSIONS: Final = {pb.Permission.Value(str(permission.name)): permission for permission in Permission}


class AccessServicer(access_pb2_grpc.AccessServicer):
    """For who asks about itself. What each RPC means is in `access.proto`."""

    async def WhoAmI(self, request: pb.WhoAmIRequest, context: _Context) -> pb.WhoAmIResponse:
        """Who the server takes the caller for."""
        principal = current_principal()
        message = pb.WhoAmIResponse(principal=principal.id, tenant=principal.tenant, via=principal.via)
        for grant in principal.policy.grants:
            message.grants.add(role=grant.role.value, fleets=grant.fleets)
        if principal.expires_s is not None:
            message.expire_time.FromMicroseconds(int(min(principal.expires_s, END_OF_TIME_S) * 1_000_000))
        return message

    async def CanI(self, request: pb.CanIRequest, context: _Context) -> pb.CanIResponse:
        """Whether the caller has a permission on a fleet."""
        bad: Violations = []
        fleet = decode_fleet(request.fleet, "fleet", bad)
        permission = _PERMISSIONS.get(request.permission)
        if permission is None:
            bad.append(("permission", "must be one of the permissions, and not unspecified"))
        raise_if_any(bad)
        assert permission is not None, "it was refused"
        return pb.CanIResponse(permitted=permission in current_principal().policy.on(fleet))
