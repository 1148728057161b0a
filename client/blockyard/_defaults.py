"""What clients and servers must agree on without asking each other. Only the standard library is imported here."""

from typing import Final

DEFAULT_PORT: Final = 7350
DEFAULT_ADDRESS: Final = f"127.0.0.1:{DEFAULT_PORT}"
"""Where `blockyard serve` listens, and where clients look for it, unless they are told otherwise."""
CALLER_KEY: Final = "blockyard-caller"
"""The metadata key that names the caller, the scope of idempotency tokens."""
