"""Server reflection, so that tools such as grpcurl list, describe and call everything without our protos."""

from collections.abc import Sequence
from typing import Any, Final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha.reflection import aio

from blockyard.v1 import errors_pb2

ERROR_FILES: Final = (errors_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR)
"""What no method names, but every error is made of. Being imported, they are in the pool like all the rest."""


class _SymbolPool:
    """The default pool, which also finds the file of a method, a field or an enum's value: that of what it is in."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """The file that declares the symbol. Raises KeyError if there is none."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            parent, _, _ = symbol.rpartition(".")
            if not parent:
                raise
            return self._pool.FindFileContainingSymbol(parent)


def reflection_servicer(services: Sequence[str]) -> object:
    """The servicer of `grpc.reflection.v1alpha.ServerReflection` for these services, by their full names."""
    pool: Any = _SymbolPool()
    return aio.ReflectionServicer(services, pool=pool)
