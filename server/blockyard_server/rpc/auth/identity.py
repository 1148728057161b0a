"""Asks who calls, before a byte of the request is read, and lets nobody in whose credentials are not good.

gRPC hands a call over with its metadata and without its body. A stranger gets a handler that ends the call there: so
the bodies of strangers are never read, which costs a tenth of refusing them afterwards (docs/adr/0026). A certificate
is seen only later, but its issuer has vouched for the client: `intercept` checks those calls.
"""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

import grpc

from blockyard_server.engine.failures import CallerUnknown, CredentialsExpired
from blockyard_server.rpc.auth.authenticator import Authenticator, Metadata, Unauthenticated
from blockyard_server.rpc.auth.principal import (
    ANONYMOUS,
    Principal,
    current_principal,
    forget_principal,
    principal_so_far,
    set_principal,
)
from blockyard_server.rpc.errors import encode_abort
from blockyard_server.rpc.interceptors import Context, Handler, Method

if TYPE_CHECKING:
    _RpcHandler = grpc.RpcMethodHandler[Any, Any]  # generic in its types, not in its code

MAX_REFUSALS: Final = 256
"""Strangers whose refusal is under way at once. One more waits for its turn, and the others of its connection, too."""
RECHECK_S: Final = 15.0
"""Between two looks at the credentials of an open stream."""
OPEN_TO_STRANGERS: Final = frozenset(f"/grpc.health.v1.Health/{method}" for method in ("Check", "List", "Watch"))
"""Monitoring calls these without credentials, and so do the health checks that gRPC makes for a client."""

BEARER: Final = "bearer"
_MESSAGES: Final = MappingProxyType(
    {
        "none": "this server wants to know who calls: send a token, or use a client certificate",
        "certificate": "this server does not know the client certificate",
        BEARER: "this server does not know the token, or no longer",
    }
)
"""By scheme. Of whatever kind a token is, the answer is one."""
_pending: ContextVar[Authenticator | None] = ContextVar("authenticator", default=None)


class ListenerMethods(grpc.GenericRpcHandler):
    """The methods of the server, as one listener offers them: to those whom its authenticator knows."""

    def __init__(
        self,
        find: Callable[[str], "_RpcHandler | None"],
        authenticator: Authenticator | None,
        *,
        by_certificate: bool = False,
    ) -> None:
        """`find` finds a method's handler. No authenticator: every caller is let in.

        `by_certificate`: a client without a bearer token has a certificate.
        """
        self._find = find
        self._authenticator = authenticator
        self._by_certificate = by_certificate
        self._refusals = asyncio.Semaphore(MAX_REFUSALS)

    def service(self, handler_call_details: Any) -> "_RpcHandler | None":
        """The method's handler, or None if there is no such method."""
        path = handler_call_details.method
        authenticator = self._authenticator
        if authenticator is None:
            set_principal(ANONYMOUS)
            return self._find(path)
        if path in OPEN_TO_STRANGERS:
            set_principal(ANONYMOUS)  # its answer is the same for everybody
            return self._find(path)
        metadata = handler_call_details.invocation_metadata or ()
        if self._by_certificate and not has_bearer(metadata):
            forget_principal()
            _pending.set(authenticator)
            return self._find(path)
        try:
            set_principal(authenticator.authenticate(metadata, {}))
        except Unauthenticated as stranger:
            return self._refusing(authenticator, stranger)
        _pending.set(authenticator)
        return self._find(path)

    def _refusing(self, authenticator: Authenticator, stranger: Unauthenticated) -> "_RpcHandler":
        abort = encode_abort(unknown_caller(stranger))

        async def refuse(_requests: Any, context: Context) -> None:
            authenticator.note_refusal(context.peer(), stranger)
            async with self._refusals:
                await context.abort(*abort)

        # For every kind of method: it ends the call without reading what comes.
        return grpc.stream_stream_rpc_method_handler(cast("Any", refuse))


def has_bearer(metadata: Metadata) -> bool:
    """Whether the call names a token, good or bad: then the token decides, and not the certificate."""
    return any(key == "authorization" for key, _ in metadata)


def unknown_caller(stranger: Unauthenticated) -> CallerUnknown:
    """What a stranger is told: not why, which would help to guess."""
    scheme = stranger.scheme if stranger.scheme in _MESSAGES else BEARER
    return CallerUnknown(_MESSAGES[scheme], scheme=scheme)


class Identity:
    """Knows the principal of a call by its certificate, and ends streams whose credentials are no longer good."""

    def __init__(self, recheck_s: float = RECHECK_S) -> None:
        self._recheck_s = recheck_s

    def intercept(self, method: Method, proceed: Handler) -> Handler:
        """As `Interceptor` says."""
        return self._stream(proceed) if method.streams else self._call(proceed)

    def _call(self, proceed: Handler) -> Handler:
        async def identified(incoming: Any, context: Context) -> Any:
            if principal_so_far() is None:
                set_principal(_by_certificate(context))
            return await proceed(incoming, context)

        return identified

    def _stream(self, proceed: Handler) -> Handler:
        async def identified(incoming: Any, context: Context) -> None:
            if principal_so_far() is None:
                set_principal(_by_certificate(context))
            authenticator, principal = _pending.get(), current_principal()
            if authenticator is None or not principal.is_known:
                await proceed(incoming, context)
                return
            await self._while_valid(lambda: proceed(incoming, context), authenticator, principal)

        return identified

    async def _while_valid(
        self, carry_out: Callable[[], Any], authenticator: Authenticator, principal: Principal
    ) -> None:
        """Carries a stream out; it ends with CredentialsExpired soon after its credentials do."""
        stream = cast("asyncio.Task[Any]", asyncio.current_task())
        expired = False

        async def look_again() -> None:
            nonlocal expired
            while authenticator.is_still_valid(principal):  # noqa: ASYNC110 - credentials expire without an event
                await asyncio.sleep(self._recheck_s)
            expired = True
            stream.cancel()

        looking = asyncio.create_task(look_again(), name="blockyard-credentials")
        try:
            await carry_out()
        except asyncio.CancelledError:
            if not expired or stream.uncancel() > 0:
                raise
        finally:
            looking.cancel()
        if expired:
            message = "the credentials of this stream have expired or were revoked; open it again with new ones"
            raise CredentialsExpired(message)


def _by_certificate(context: Context) -> Principal:
    """The principal of a call without a token. Raises CallerUnknown."""
    authenticator = _pending.get()
    if authenticator is None:
        raise LookupError("nobody was asked who calls")
    certificate = cast("Any", context.auth_context())
    try:
        return authenticator.authenticate(cast("Any", context.invocation_metadata()) or (), certificate)
    except Unauthenticated as stranger:
        authenticator.note_refusal(context.peer(), stranger)
        raise unknown_caller(stranger) from None
