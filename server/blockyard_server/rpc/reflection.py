"""Server reflection, so that tools such as grpcurl list, describe and call everything without our protos.

It is served twice: as v1, which newer tools ask for first, and as v1alpha for the others. grpcio-reflection has v1alpha
alone. The two differ in the name of their package and in nothing else, so v1 is made of v1alpha: the descriptor with
another package, and the same bytes for each message.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

from blockyard.v1 import errors_pb2
from blockyard_server.engine.failures import Overloaded

ERROR_FILES: Final = (errors_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR)
"""What no method names, but every error is made of. Being imported, they are in the pool like all the rest."""

V1ALPHA: Final[Any] = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]


@dataclass(frozen=True, slots=True)
class ReflectionLimits:
    """What one stream of questions may take."""

    idle_s: float = 10.0
    """A stream on which nothing was asked for so long is ended."""
    max_questions: int = 1000
    """On one stream."""


def _made_v1() -> FileDescriptor:
    """The file that declares v1. Its pool is its own: another package may bring the same names into the default one."""
    file = descriptor_pb2.FileDescriptorProto()
    V1ALPHA.file.CopyToProto(file)
    old, new = f".{file.package}.", ".grpc.reflection.v1."
    file.name, file.package = "grpc/reflection/v1/reflection.proto", new.strip(".")
    file.ClearField("options")  # that it is deprecated, and its packages in other languages
    for field in (field for message in file.message_type for field in message.field if field.type_name):
        field.type_name = field.type_name.replace(old, new)
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(old, new)
        method.output_type = method.output_type.replace(old, new)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindFileByName(file.name)


_V1_FILE: Final = _made_v1()
V1: Final[ServiceDescriptor] = _V1_FILE.services_by_name["ServerReflection"]


class _SymbolPool:
    """The default pool and v1's file. It also finds the file of a method, a field or an enum's value: its parent's."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileByName(self, name: str) -> FileDescriptor:
        """The file of this name. Raises KeyError if there is none."""
        return _V1_FILE if name == _V1_FILE.name else self._pool.FindFileByName(name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """The file that declares the symbol. Raises KeyError if there is none."""
        for pool in (self._pool, _V1_FILE.pool):
            for name in (symbol, symbol.rpartition(".")[0]):
                try:
                    return pool.FindFileContainingSymbol(name)
                except KeyError:
                    continue
        raise KeyError(symbol)


class _Bounded:
    """Answers as grpc's servicer does, for as long and as often as is allowed."""

    def __init__(self, servicer: Any, limits: ReflectionLimits) -> None:
        self._servicer = servicer
        self._limits = limits

    async def ServerReflectionInfo(self, requests: AsyncIterator[Message], context: object) -> AsyncIterator[Message]:
        """The stream of questions and answers. It ends well when nothing is asked: tools open another one."""
        async for answer in self._servicer.ServerReflectionInfo(self._asked(requests), context):
            yield answer

    async def _asked(self, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        questions = aiter(requests)
        for _ in range(self._limits.max_questions):
            try:
                async with asyncio.timeout(self._limits.idle_s):
                    question = await anext(questions)
            except (TimeoutError, StopAsyncIteration):
                return
            yield question
        message = f"{self._limits.max_questions} questions were answered on this stream; open another one"
        raise Overloaded(message, maximum=self._limits.max_questions)


class _V1Servicer:
    """Answers as v1alpha does, in the messages of v1."""

    def __init__(self, v1alpha: _Bounded) -> None:
        self._v1alpha = v1alpha
        self._answer: Any = message_factory.GetMessageClass(V1.methods_by_name["ServerReflectionInfo"].output_type)

    async def ServerReflectionInfo(self, requests: AsyncIterator[Message], context: object) -> AsyncIterator[Message]:
        """The stream of questions and answers."""

        async def asked() -> AsyncIterator[Message]:
            async for request in requests:
                yield reflection_pb2.ServerReflectionRequest.FromString(request.SerializeToString())

        async for answer in self._v1alpha.ServerReflectionInfo(asked(), context):
            yield self._answer.FromString(answer.SerializeToString())


def reflection_services(services: Sequence[str], limits: ReflectionLimits) -> list[tuple[ServiceDescriptor, object]]:
    """Both versions of `ServerReflection` with their servicers, for the services of these names and themselves."""
    pool: Any = _SymbolPool()
    v1alpha = _Bounded(aio.ReflectionServicer([*services, V1.full_name, V1ALPHA.full_name], pool=pool), limits)
    return [(V1, _V1Servicer(v1alpha)), (V1ALPHA, v1alpha)]
