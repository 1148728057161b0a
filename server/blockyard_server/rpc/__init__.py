"""The gRPC edge: decodes and validates requests, calls the engine's `Service`, encodes answers and errors.

The only package that imports grpc and protobuf. A request that leaves this package for the engine is
complete and well-formed; what is wrong with one is answered here, all of it at once, field by field.
Nothing here decides, waits for anything but the service, or knows how anything is stored.

`server.build_server` makes the whole edge; each service has a file of its own (`allocator`, `fleet_admin`,
`ledger`), with `decode_x` on its way in and `encode_x` on its way out.
"""
