"""Both versions of server reflection, asked on the wire: the bytes of their messages are the same."""

from typing import Any, Final

from grpc_reflection.v1alpha import reflection_pb2

from tests.rpc.wire import Blockyard

VERSIONS: Final = ("v1", "v1alpha")


def reflection_method(version: str) -> str:
    """The path of the method."""
    return f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"


def reflection_stream(blockyard: Blockyard, version: str) -> Any:
    """An open stream of questions and answers."""
    channel: Any = blockyard.channel
    call = channel.stream_stream(
        reflection_method(version),
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return call(metadata=blockyard.metadata)
