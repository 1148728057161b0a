"""Sources of keys that a test turns on and off."""

from blockyard_server.rpc.auth.jwks_source import JwksFailed


class Memory:
    """A document that the test changes; None: it cannot be read."""

    interval_s = 600.0
    is_local = True

    def __init__(self, document: bytes | None) -> None:
        self.document = document
        self.reads = 0

    def read(self) -> bytes | None:
        self.reads += 1
        if self.document is None:
            raise JwksFailed("the issuer is away")
        return self.document

    def forget(self) -> None:
        """It remembers nothing."""

    def abort(self) -> None:
        """It never waits."""
