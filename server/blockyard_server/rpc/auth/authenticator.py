"""What the edge asks before it reads a request: who is this?"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from blockyard_server.rpc.auth.principal import Principal

Metadata = Sequence[tuple[str, str | bytes]]
Certificate = Mapping[str, Sequence[bytes]]
"""The peer's certificate as gRPC's auth context gives it: `peer_spiffe_id`, `peer_uri`, `peer_dns`. Empty: none."""


class Unauthenticated(Exception):
    """Nobody knows who this is. `hint` and `subject` are for the log; the client learns the scheme alone."""

    def __init__(self, scheme: str, hint: str, subject: str = "") -> None:
        super().__init__(f"{scheme}: {hint}")
        self.scheme = scheme
        self.hint = hint
        self.subject = subject
        """Whose proof it was, if the auth file names it: `token:k3v9`, `jwt:k8s`. Never text that a stranger chose."""


class Authenticator(Protocol):
    """Finds the principal of a call."""

    def authenticate(self, metadata: Metadata, certificate: Certificate) -> Principal:
        """The principal. Raises Unauthenticated. Never waits: it is called in the event loop for every call."""
        ...

    def note_refusal(self, peer: str, stranger: Unauthenticated) -> None:
        """Somebody was refused, who calls from this address, as gRPC names it."""
        ...

    def is_still_valid(self, principal: Principal) -> bool:
        """Whether the credentials by which this principal was found are good still. For streams that stay open."""
        ...
