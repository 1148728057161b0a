"""Blockyard without the SDK: grpc, and the code that protoc generates from protos/.

Run it with `python examples/generated_client.py FLEET`.

What every client has to do by itself, in any language: choose a token before the first attempt, send the same request
again while no answer comes, release by the token when giving up, and branch on the reason of an error.
"""

import os
import sys
import time
import uuid
from collections.abc import Callable
from typing import TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import allocator_pb2_grpc

ATTEMPT_S = 5
"""How long one attempt may take."""
PATIENCE_S = 60
"""How long to ask again: longer than the outages to survive."""
PAUSE_S = 0.5
AnswerT = TypeVar("AnswerT")

NO_ANSWER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
"""For a change these mean: unknown."""


def ask(rpc: Callable[..., AnswerT], request: Message) -> AnswerT:
    """Sends the same request until there is an answer. Raises grpc.RpcError: a refusal, or the last failure."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return rpc(request, timeout=ATTEMPT_S)
        except grpc.RpcError as error:
            if error.code() not in NO_ANSWER or time.monotonic() > until_s:
                raise
            time.sleep(PAUSE_S)


def acquire(allocator: allocator_pb2_grpc.AllocatorStub, request: pb.AcquireRequest) -> pb.AcquireResponse:
    """Acquires. Raises grpc.RpcError: a refusal, or no answer, and then nothing stays held for longer than the TTL."""
    try:
        return ask(allocator.Acquire, request)
    except grpc.RpcError as error:
        if error.code() in NO_ANSWER:
            ask(allocator.Release, pb.ReleaseRequest(fleet=request.fleet, idempotency_token=request.idempotency_token))
        raise


def reason_of(error: grpc.RpcError) -> str:
    """The reason in the ErrorInfo of an error; the status of one that has none, such as a proxy's."""
    for entry in error.trailing_metadata() or ():
        if entry.key == "grpc-status-details-bin":
            for detail in Status.FromString(entry.value).details:
                info = ErrorInfo()
                if detail.Unpack(info):
                    return str(info.reason)
    return error.code().name


def main(fleet: str) -> int:
    """Holds two blocks for a moment. Returns the exit code."""
    request = pb.AcquireRequest(
        fleet=f"fleets/{fleet}",
        idempotency_token=str(uuid.uuid4()),
        holder="job-1",
        demands=[pb.Demand(blocks=2)],
        ttl=Duration(seconds=30),
    )
    with grpc.insecure_channel(os.environ.get("BLOCKYARD_ADDRESS", "127.0.0.1:7350")) as channel:
        allocator = allocator_pb2_grpc.AllocatorStub(channel)
        try:
            allocation = acquire(allocator, request).allocation
        except grpc.RpcError as error:
            print(f"refused: {reason_of(error)}")
            return 1
        print(f"{allocation.holder} holds {[list(placement.blocks) for placement in allocation.placements]}")
        released = ask(allocator.Release, pb.ReleaseRequest(name=allocation.name))
        print(pb.ReleaseResponse.Outcome.Name(released.outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
