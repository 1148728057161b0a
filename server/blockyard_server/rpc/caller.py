"""Who calls: the namespace of idempotency tokens, out of a request's metadata."""

from typing import Any, Final

import grpc.aio

from blockyard._defaults import CALLER_KEY
from blockyard_server.domain.errors import InvalidRequest
from blockyard_server.rpc.fields import quoted
from blockyard_server.rpc.names import ID_RULE, is_id

DEFAULT_CALLER: Final = "default"


def decode_caller(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """The caller that the metadata names, or `default`. Raises InvalidRequest if it is malformed or named twice."""
    caller = None
    for key, value in context.invocation_metadata() or ():
        if key == CALLER_KEY:
            if caller is not None or not isinstance(value, str) or not is_id(value):
                problem = f"must be given once, as {ID_RULE}; not {quoted(str(value))}"
                raise InvalidRequest((f"metadata.{CALLER_KEY}", problem))
            caller = value
    return DEFAULT_CALLER if caller is None else caller
