"""Whose tokens a call uses: the namespace that its metadata names, within what its principal owns."""

from dataclasses import replace
from typing import Any, Final, TypeVar

import grpc.aio

from blockyard._defaults import CALLER_KEY
from blockyard_server.domain.errors import InvalidRequest
from blockyard_server.domain.requests import Request
from blockyard_server.engine.asker import ANYBODY, Asker
from blockyard_server.rpc.auth.principal import DEFAULT_CALLER, current_principal
from blockyard_server.rpc.fields import quoted
from blockyard_server.rpc.names import ID_RULE, is_id

Asked = TypeVar("Asked", bound=Request)

_FIELD: Final = f"metadata.{CALLER_KEY}"


def decode_caller(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """The owner of this call's tokens. Raises InvalidRequest if the metadata's caller is malformed or given twice."""
    named = None
    for key, value in context.invocation_metadata() or ():
        if key == CALLER_KEY:
            if named is not None or not isinstance(value, str) or not is_id(value):
                raise InvalidRequest((_FIELD, f"must be given once, as {ID_RULE}; not {quoted(str(value))}"))
            named = value
    return current_principal().caller(named)


def asked_by_caller(request: Asked) -> Asked:
    """The request with who asks it, if that is known."""
    actor = current_principal().actor_on(request.fleet)
    return request if actor is None else replace(request, actor=actor)


def asker_for(caller: str) -> Asker:
    """Whose share of the writers a call takes that uses this caller's tokens: its tenant's, if that is known."""
    principal = current_principal()
    if principal.is_known:
        return principal.asker
    return ANYBODY if caller == DEFAULT_CALLER else Asker(caller)


def asker_of(context: grpc.aio.ServicerContext[Any, Any]) -> Asker:
    """The same of a call that uses no tokens. What its metadata names as caller, but cannot be one, is nobody."""
    principal = current_principal()
    if principal.is_known:
        return principal.asker
    for key, value in context.invocation_metadata() or ():
        if key == CALLER_KEY:
            return asker_for(value) if isinstance(value, str) and is_id(value) else ANYBODY
    return ANYBODY
