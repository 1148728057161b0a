"""The calls of the service Access: who the server takes the caller for, and what that one may do."""

from typing import Final

from blockyard._call import Call, Method
from blockyard._codec import decode_can_i, decode_identity, encode_permission
from blockyard._names import fleet_name
from blockyard.credentials import Identity
from blockyard.enums import Permission
from blockyard.v1 import access_pb2 as pb

_SERVICE: Final = "/blockyard.v1.Access"
WHO_AM_I = Method(f"{_SERVICE}/WhoAmI", pb.WhoAmIRequest, pb.WhoAmIResponse)
CAN_I = Method(f"{_SERVICE}/CanI", pb.CanIRequest, pb.CanIResponse)


def who_am_i(*, timeout_s: float | None = None) -> Call[Identity]:
    """Who the server takes the caller for, by the credentials of this client.

    Args:
        timeout_s: How long it may take in all, retries included. None: as the client says.

    Raises:
        Unauthenticated: The server does not know the caller.
        CallFailed: Any other refusal.
    """
    return WHO_AM_I.call(pb.WhoAmIRequest(), decode_identity, timeout_s)


def can_i(permission: Permission, fleet: str, *, timeout_s: float | None = None) -> Call[bool]:
    """Whether the caller has a permission on a fleet, whether or not the fleet exists.

    Args:
        permission: Which one.
        fleet: Which fleet.
        timeout_s: How long it may take in all, retries included. None: as the client says.

    Raises:
        Unauthenticated: The server does not know the caller.
        CallFailed: Any other refusal.
    """
    request = pb.CanIRequest(permission=encode_permission(permission), fleet=fleet_name(fleet))
    return CAN_I.call(request, decode_can_i, timeout_s)
