"""Runs the core: one writer that commits batches, the sweeper, the readers.

Imports `domain` only; the store is a protocol (`store_protocol`) that this package owns and others implement.
Nothing here knows SQL, gRPC or protobuf.
"""
