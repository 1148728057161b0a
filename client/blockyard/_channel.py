"""Where the server is and how to talk to it: what the blocking and the asyncio client have in common."""

import os
from typing import Any, Final

from google.protobuf.message import Message

DEFAULT_ADDRESS: Final = "127.0.0.1:7350"
"""Where `blockyard serve` listens unless told otherwise."""
DEFAULT_TIMEOUT_S: Final = 10.0
"""How long a call may take in all, retries included."""
CALLER_KEY: Final = "blockyard-caller"
"""The metadata key that names the caller, the scope of idempotency tokens."""

OPTIONS: Final[list[tuple[str, Any]]] = [
    # A connection that a fail-over or a firewall has swallowed is noticed during a call, not by the calls after it.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # The answer to a batch may be several times its request, which the server limits; losing it would be worse.
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # Retries are ours: gRPC's own would not know of tokens, and its waits after a lost connection grow to minutes,
    # longer than most leases live.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


def address(target: str | None) -> str:
    """The server's address: the argument, else BLOCKYARD_ADDRESS, else the default."""
    return target or os.environ.get("BLOCKYARD_ADDRESS") or DEFAULT_ADDRESS


def caller_metadata(caller: str | None) -> tuple[tuple[str, str], ...]:
    """The metadata of each call: the argument, else BLOCKYARD_CALLER, else nothing."""
    name = caller or os.environ.get("BLOCKYARD_CALLER")
    return ((CALLER_KEY, name),) if name else ()


def serialize(request: Message) -> bytes:
    """A request as bytes."""
    return request.SerializeToString()
