"""Nothing but an answer or an error of ours leaves the server: what a call raises becomes a Status, or an incident."""

import logging
import secrets
from typing import Any, Final

import grpc

from blockyard_server.domain.errors import Refused
from blockyard_server.engine.failures import EngineFailure, InternalError
from blockyard_server.rpc.errors import Failure, encode_abort
from blockyard_server.rpc.interceptors import Context, Handler, Method

_log: Final = logging.getLogger(__name__)


class ErrorAnswers:
    """Ends a call that raises with the error that its client is to learn."""

    def __init__(self) -> None:
        self.streams_that_are_ending = 0
        """Streams whose end is on its way to a client that has not taken it yet."""

    def intercept(self, method: Method, proceed: Handler) -> Handler:
        """As `Interceptor` says."""

        async def answered(incoming: Any, context: Context) -> Any:
            try:
                return await proceed(incoming, context)
            except Exception as error:  # noqa: BLE001 - whatever it is, its text must not reach a client
                refusal = encode_abort(failure_of(error))
            # Not in the except clause: abort's exception would carry the other along, frames and all.
            self.streams_that_are_ending += method.streams
            try:
                # To a client that does not read, the end of a stream takes as long as it lives.
                return await context.abort(*refusal)
            finally:
                self.streams_that_are_ending -= method.streams

        return answered


def failure_of(error: Exception) -> Failure:
    """What a client learns of an exception: a refusal or a failure as it is, else the number that the log has it under.

    Raises the exception again if it is grpc's own: an abort, or the connection's end.
    """
    if isinstance(error, Refused | EngineFailure):
        return error
    if isinstance(error, grpc.aio.BaseError):
        raise error
    number = secrets.token_hex(6)
    _log.error("incident %s", number, exc_info=error)
    return InternalError("a fault of the server", incident=number)
