"""Benchmarks: programs that print ratios against a baseline of the same run, since machines are noisy.

`python -m benchmarks` (`make bench`) runs all and prints a table; `--json FILE` also writes the figures, `--only NAME`
runs one part. Server and client are two processes on this machine. Nothing here is asserted: tests never judge time.
"""

import os

# Programs are started while gRPC runs; they are executed at once, and need neither its care for forks nor its log line.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
