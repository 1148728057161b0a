"""Where the servers are and how to talk to them: what the blocking and the asyncio client have in common.

Several servers are one channel, and gRPC's own service config does the rest: calls go round over the servers that are
connected, and a watch of the standard health service on each connection takes a server that says NOT_SERVING out of
the round before it begins to refuse calls. docs/adr/0005 has the reasons and what was seen.

Retries are not in the service config. gRPC's would each be repeated by ours; they know neither RetryInfo nor the
reason of a refusal; and a change that gRPC repeats could be refused because of its own first attempt (a delete answered
NOT_FOUND) without a trace in `lost_attempts`. Its transparent retries, of calls that never left, spare so few that
none could be counted.
"""

import json
import os
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message

from blockyard._defaults import CALLER_KEY, DEFAULT_ADDRESS
from blockyard._target import decode_target, is_on_this_machine
from blockyard.errors import InvalidTarget

DEFAULT_TIMEOUT_S: Final = 10.0
"""How long a call may take in all, retries included."""

OPTIONS: Final[list[tuple[str, Any]]] = [
    # A connection that a fail-over or a firewall has swallowed is noticed during a call, not by the calls after it.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # gRPC has two timers for one ping, and the earlier one counts; this one's default is a minute.
    ("grpc.http2.ping_timeout_ms", 10_000),
    # The answer to a batch may be several times its request, which the server limits; losing it would be worse.
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.enable_retries", 0),
    # gRPC's own waits after a lost connection grow to minutes, longer than most leases live. A server that was killed
    # and is back gets its calls after a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]

_SERVICE_CONFIG: Final = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        # The empty name is the server as a whole.
        "healthCheckConfig": {"serviceName": ""},
    }
)
_SEVERAL: Final[dict[str, Any]] = {
    "grpc.service_config": _SERVICE_CONFIG,
    # A server that hangs is in the round, and answers none of its calls, until its connection is given up: sooner than
    # that of an only server, where nothing is gained by it. Servers permit a ping every 5 s. The health watch keeps a
    # call open on each connection, so idle ones are pinged too, without gRPC's limit to pings without data.
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.http2.ping_timeout_ms": 5_000,
    "grpc.http2.max_pings_without_data": 0,
}


@dataclass(frozen=True, slots=True)
class Connection:
    """What a client opens its channel with."""

    target: str
    """As gRPC takes it."""
    options: list[tuple[str, Any]]
    """The channel's arguments."""
    several: bool
    """Whether there may be other servers to turn to."""


def connection(target: str | None, *, server_name: str | None = None, open_secret: bool = False) -> Connection:
    """To the argument, else BLOCKYARD_ADDRESS, else the default; names in a list are looked up here, which may block.

    `server_name` is what TLS certificates are checked against; None: the target's name, the first one of a list.
    `open_secret`: calls say in plain text what must not leave the machine.

    Raises:
        InvalidTarget: It is empty, or a list that is malformed, or none of its names has an address.
    """
    if target == "":
        raise InvalidTarget("the target is empty; omit it for BLOCKYARD_ADDRESS, else the default")
    decoded = decode_target((os.environ.get("BLOCKYARD_ADDRESS") or DEFAULT_ADDRESS) if target is None else target)
    options = dict(OPTIONS)
    if decoded.several:
        options |= _SEVERAL
    authority = server_name or decoded.authority
    if authority is not None:
        options["grpc.default_authority"] = authority
    # A proxy would be asked for a connection to the whole list. And gRPC takes the environment's proxy for loopback
    # addresses too: it may be elsewhere.
    if decoded.authority is not None or (open_secret and is_on_this_machine(decoded.name)):
        options["grpc.enable_http_proxy"] = 0
    return Connection(decoded.name, list(options.items()), several=decoded.several)


def caller_metadata(caller: str | None) -> tuple[tuple[str, str], ...]:
    """The metadata of each call: the argument, else BLOCKYARD_CALLER, else nothing.

    Raises:
        ValueError: The argument is empty.
    """
    if caller == "":
        raise ValueError("caller is empty; omit it for BLOCKYARD_CALLER, else none")
    name = caller or os.environ.get("BLOCKYARD_CALLER")
    return ((CALLER_KEY, name),) if name else ()


def serialize(request: Message) -> bytes:
    """A request as bytes."""
    return request.SerializeToString()
