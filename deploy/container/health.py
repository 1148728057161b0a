"""Asks the server of this container for its health, over the admin socket. Exit code 0: well, 1: not.

Without arguments: whether it serves. With `--live`: whether it answers at all, also while its database is away. A
supervisor restarts a server that does not answer; to restart one whose database is away would not help.
"""

import os
import sys

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

LIMIT_S = 4.0
"""Below the limits of HEALTHCHECK and of the probes, so that the reason is seen."""


def main(arguments: list[str]) -> int:
    """Prints the status, or why there is none."""
    with grpc.insecure_channel(f"unix:{os.environ['BLOCKYARD_ADMIN_SOCKET']}") as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        try:
            status = check(HealthCheckRequest(), timeout=LIMIT_S, wait_for_ready=True).status
        except grpc.RpcError as failure:
            sys.stderr.write(f"no answer: {failure}\n")
            return 1
    sys.stdout.write(f"{HealthCheckResponse.ServingStatus.Name(status)}\n")
    return 0 if status == HealthCheckResponse.SERVING or "--live" in arguments else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
