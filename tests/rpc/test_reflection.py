"""Server reflection in both versions: the same answers under two names, treated as every other method."""

import random
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2

from blockyard_server.rpc.server import Edge
from tests.rpc.reflection import VERSIONS, reflection_method, reflection_stream
from tests.rpc.wire import Blockyard

each_version = pytest.mark.parametrize("version", VERSIONS)


async def ask(stream: Any, **question: Any) -> reflection_pb2.ServerReflectionResponse:
    await stream.write(reflection_pb2.ServerReflectionRequest(**question))
    answer: reflection_pb2.ServerReflectionResponse = await stream.read()
    return answer


@each_version
async def test_services_methods_messages_and_fields_are_described(blockyard: Blockyard, version: str) -> None:
    stream = reflection_stream(blockyard, version)

    for symbol in (
        "blockyard.v1.Allocator",
        "blockyard.v1.Allocator.Acquire",
        "blockyard.v1.Instance",
        "blockyard.v1.Instance.State",
        "blockyard.v1.Instance.total_blocks",
        "google.rpc.Status",
    ):
        assert (await ask(stream, file_containing_symbol=symbol)).file_descriptor_response.file_descriptor_proto, symbol
    for symbol in ("", "Nope", "blockyard.v1.Nope.Nope", "a.b.c.d"):
        refused = await ask(stream, file_containing_symbol=symbol)
        assert refused.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0], symbol

    await stream.done_writing()


@each_version
@pytest.mark.parametrize("described", VERSIONS)
async def test_each_version_describes_itself_and_the_other(blockyard: Blockyard, version: str, described: str) -> None:
    stream = reflection_stream(blockyard, version)
    package = f"grpc.reflection.{described}"

    by_symbol = await ask(stream, file_containing_symbol=f"{package}.ServerReflection")
    (data,) = by_symbol.file_descriptor_response.file_descriptor_proto
    file = descriptor_pb2.FileDescriptorProto.FromString(data)
    by_name = await ask(stream, file_by_filename=file.name)

    assert file.package == package
    assert file.service[0].method[0].input_type == f".{package}.ServerReflectionRequest"
    assert list(by_name.file_descriptor_response.file_descriptor_proto) == [data]


async def test_the_versions_differ_in_their_names_alone(blockyard: Blockyard) -> None:
    files = []
    for version in VERSIONS:
        answer = await ask(
            reflection_stream(blockyard, version), file_containing_symbol=f"grpc.reflection.{version}.ServerReflection"
        )
        file = descriptor_pb2.FileDescriptorProto.FromString(answer.file_descriptor_response.file_descriptor_proto[0])
        file.ClearField("name")
        file.ClearField("options")
        files.append(str(file).replace(f"grpc.reflection.{version}", "grpc.reflection"))

    assert "ServerReflectionRequest" in files[0]
    assert files[0] == files[1]


@each_version
async def test_random_bytes_on_a_stream_are_a_malformed_request(blockyard: Blockyard, version: str) -> None:
    channel: Any = blockyard.channel
    call = channel.stream_stream(reflection_method(version))()
    await call.write(b"\xff" + random.Random(7).randbytes(40))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@each_version
async def test_a_stream_is_counted_as_every_call_is(edge: Edge, blockyard: Blockyard, version: str) -> None:
    path = reflection_method(version)
    assert edge.calls.under_way[path] == 0
    stream = reflection_stream(blockyard, version)
    await ask(stream, list_services="")

    assert edge.calls.under_way[path] == 1
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK
    assert edge.calls.answered[path, "OK"] == 1
