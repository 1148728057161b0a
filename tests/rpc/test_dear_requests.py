"""Every limit of a request is checked before its entries are looked at: no request is dear that is refused anyway.

Each repeated field of each request, at any depth, is filled with as many of the smallest entries as a request may
have bytes. What the answer costs is counted in calls of functions, not in time.
"""

import sys
from collections.abc import Iterator
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.internal import encoder

from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import resources_pb2
from blockyard_server.domain.limits import MAX_ANNOTATIONS, MAX_BATCH_OPERATIONS, MAX_DEMANDS, MAX_INSTANCES_PER_REQUEST
from blockyard_server.settings import MAX_REQUEST_BYTES
from tests.harness.samples import some_at_first
from tests.rpc.test_bad_input import METHODS
from tests.rpc.wire import Blockyard, first_of

DEPTH: Final = 5
MOST_CALLS: Final = 100_000
"""Far more than a request of legal size needs, and far less than one for each of 500,000 entries."""
MOST_CALLS_OF_A_BATCH: Final = 1_000_000
LENGTH_DELIMITED: Final = 2
REFUSALS: Final = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,  # a limit of all demands together
    grpc.StatusCode.OK,  # a batch, in which the only operation is refused
)

Path = tuple[FieldDescriptor, ...]


def repeated_fields(message: Descriptor, above: Path = ()) -> Iterator[Path]:
    """The way to each repeated field; a field on the way stands for one entry of it."""
    for field in message.fields:
        path = (*above, field)
        if field.is_repeated:
            yield path
        if field.message_type is not None and len(path) < DEPTH and not field.message_type.GetOptions().map_entry:
            yield from repeated_fields(field.message_type, path)


def filled(path: Path, budget: int) -> bytes:
    """A message in which the last field of the path has as many small entries as go into so many bytes."""
    entries = list(entries_of(path[-1], budget))
    data = b"".join(entries)
    for field in reversed(path[:-1]):
        data = delimited(field, data)
    return data


def entries_of(field: FieldDescriptor, budget: int) -> Iterator[bytes]:
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    number, used = 0, 0
    while True:
        if is_map:  # entries with the same key would be one
            entry = delimited(field, b"\x0a" + bytes([len(str(number))]) + str(number).encode())
        elif field.cpp_type in (FieldDescriptor.CPPTYPE_MESSAGE, FieldDescriptor.CPPTYPE_STRING):
            entry = delimited(field, b"")
        else:
            entry = encoder.TagBytes(field.number, 0) + b"\x01"
        used += len(entry)
        if used > budget:
            return
        yield entry
        number += 1


def delimited(field: FieldDescriptor, data: bytes) -> bytes:
    length = bytearray()
    size = len(data)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(encoder.TagBytes(field.number, LENGTH_DELIMITED)) + bytes([*length, size]) + data


CASES: Final = [(name, path) for name, method in sorted(METHODS.items()) for path in repeated_fields(method.input_type)]


@pytest.mark.parametrize(
    ("name", "path"),
    some_at_first(
        [pytest.param(name, path, id=f"{name}: {'.'.join(field.name for field in path)}") for name, path in CASES],
        4,
    ),
)
async def test_a_request_full_of_entries_is_refused_at_little_cost(blockyard: Blockyard, name: str, path: Path) -> None:
    await blockyard.make_fleet("gpu", "node-1")
    data = filled(path, MAX_REQUEST_BYTES - 1024)

    code, calls = await cost_of(blockyard, name, data)

    assert code in REFUSALS
    assert calls < MOST_CALLS


def operation_of_demands(expressions: int = 0, requirements: int = 0) -> pb.BatchOperation:
    demand = pb.Demand(requirements={f"r{number}": 1 for number in range(requirements)})
    for _ in range(expressions):
        demand.selector.match_expressions.add()
    return pb.BatchOperation(acquire=pb.AcquireRequest(demands=[demand] * MAX_DEMANDS))


def operation_of_placements() -> pb.BatchOperation:
    placements = [resources_pb2.Placement()] * MAX_INSTANCES_PER_REQUEST
    return pb.BatchOperation(release=pb.ReleaseRequest(name="fleets/gpu/allocations/1", placements=placements))


def operation_of_annotations() -> pb.BatchOperation:
    annotations = {f"a{number}": "" for number in range(MAX_ANNOTATIONS)}
    return pb.BatchOperation(acquire=pb.AcquireRequest(demands=[pb.Demand()], annotations=annotations))


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(operation_of_demands(), id="demands"),
        pytest.param(operation_of_demands(expressions=4), id="some expressions"),
        pytest.param(operation_of_demands(expressions=32), id="expressions"),
        pytest.param(operation_of_demands(requirements=32), id="requirements"),
        pytest.param(operation_of_placements(), id="placements"),
        pytest.param(operation_of_annotations(), id="annotations"),
    ],
)
async def test_a_batch_full_of_the_fullest_operations_is_answered_at_little_cost(
    blockyard: Blockyard, operation: pb.BatchOperation
) -> None:
    await blockyard.make_fleet("gpu", "node-1")
    count = min(MAX_BATCH_OPERATIONS, (MAX_REQUEST_BYTES - 1024) // (operation.ByteSize() + 8))
    batch = pb.BatchRequest(operations=[operation] * count)

    code, calls = await cost_of(blockyard, "Batch", batch.SerializeToString())

    assert code in REFUSALS
    assert calls < MOST_CALLS_OF_A_BATCH


async def cost_of(blockyard: Blockyard, name: str, data: bytes) -> tuple[grpc.StatusCode, int]:
    """How a call ends, and how many functions this thread has called for it, the client's and the server's."""
    method = METHODS[name]
    channel: Any = blockyard.channel
    path = f"/{method.containing_service.full_name}/{name}"
    call = channel.unary_stream(path) if method.server_streaming else channel.unary_unary(path)
    calls = 0

    def count(_frame: object, _event: str, _argument: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        await first_of(call(data))
    except grpc.aio.AioRpcError as error:
        return error.code(), calls
    finally:
        sys.setprofile(None)
    return grpc.StatusCode.OK, calls
