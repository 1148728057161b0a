"""What a request is answered with, and which field is blamed: of the call, or of a batch's one operation."""

import re
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from grpc_status import rpc_status

from blockyard.v1 import allocator_pb2 as pb
from tests.rpc.legal_input import OK
from tests.rpc.wire import Blockyard, Refusal, first_of, unpacked


def concerns(violation: str, path: str) -> bool:
    """Whether a violation is of the field: of itself, of what it is in, or of what is in it."""
    violation = re.sub(r"\[[^]]*\]", "", violation)
    return f"{violation}.".startswith(f"{path}.") or f"{path}.".startswith(f"{violation}.")


def call_of(blockyard: Blockyard, request_: str) -> Any:
    rpc = request_.split(maxsplit=1)[0]
    return next(getattr(stub, rpc) for stub in blockyard.stubs if hasattr(stub, rpc))


class Given:
    """What came back: OK or an error, of the call or of a batch's one operation."""

    def __init__(self, refusal: Refusal | None, prefix: str = "") -> None:
        self.code = grpc.StatusCode.OK if refusal is None else refusal.code
        self.reason = OK if refusal is None else refusal.reason
        self.fields = [prefix + f for f in refusal.fields] if refusal and "BadRequest" in refusal.details else []
        self.message = "" if refusal is None else refusal.message

    def __repr__(self) -> str:
        return f"{self.code.name} {self.reason} {self.fields} {self.message}"


async def answer(blockyard: Blockyard, request_: str, request: Message) -> Given:
    try:
        given = await first_of(call_of(blockyard, request_)(request))
    except grpc.aio.AioRpcError as error:
        return refused(error)
    if isinstance(request, pb.BatchRequest) and given.results[0].HasField("error"):
        status = given.results[0].error
        codes = {code.value[0]: code for code in grpc.StatusCode}
        kind = request.operations[0].WhichOneof("operation")
        return Given(unpacked(codes[status.code], status.message, status), f"operations.{kind}.")
    return Given(None)


def refused(error: grpc.aio.AioRpcError) -> Given:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # typed for the blocking call, serves both
    return Given(unpacked(error.code(), error.details() or "", status))
