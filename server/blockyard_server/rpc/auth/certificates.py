"""Names out of a client's certificate: the SPIFFE id, else the URIs, else the DNS names. The common name is never read.

gRPC has checked the certificate before; here its names are compared with those of the auth file.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final, Generic, TypeVar

from blockyard_server.rpc.auth.authenticator import Certificate, Unauthenticated
from blockyard_server.rpc.auth.hints import Hint, Scheme

MAX_NAME_LENGTH: Final = 512
"""Of a name in the auth file or in a certificate: it stands in the journal beside each change."""
MAX_NAMES: Final = 32
"""Of one certificate. One with more is refused."""
ANY: Final = "*"
SPIFFE: Final = "spiffe://"

_is_uri: Final = re.compile(r"[a-z][a-z0-9+.-]*://[!-.0-~]+(?:/[!-.0-~]+)*").fullmatch
_is_dns_name: Final = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]*[a-z0-9])?").fullmatch

T = TypeVar("T")


def problem_of_pattern(pattern: str) -> str | None:
    """What is wrong with a name in the auth file; None: nothing."""
    if len(pattern) > MAX_NAME_LENGTH:
        return f"is longer than {MAX_NAME_LENGTH} characters"
    if "://" not in pattern:
        if ANY in pattern:
            return f"has {ANY}, which only the last path segment of a URI may have"
        return None if _is_dns_name(pattern) else "must be a URI, or a DNS name in lower case"
    if not _is_uri(pattern):
        return "must be a URI of printable ASCII characters, without empty path segments"
    before, _, last = pattern.partition("://")[2].rpartition("/")
    if ANY in before or (ANY in last and not before) or last.count(ANY) > 1:
        return f"may have one {ANY}, in its last path segment"
    return None


def names_in(certificate: Certificate) -> tuple[str, ...]:
    """The names by which a peer may be known; none if it has no certificate, or one without such names.

    Raises Unauthenticated if it has more than one SPIFFE id, or too many names.
    """
    spiffe_ids = certificate.get("peer_spiffe_id", ())
    if len(spiffe_ids) == 1:
        return _decoded(spiffe_ids)
    uris = _decoded(certificate.get("peer_uri", ()))
    if spiffe_ids or any(uri.startswith(SPIFFE) for uri in uris):
        raise Unauthenticated(Scheme.CERTIFICATE, Hint.AMBIGUOUS)
    if uris:
        return uris
    return tuple(name.lower() for name in _decoded(certificate.get("peer_dns", ())) if ANY not in name)


def proof_by(name: str) -> str:
    """How a principal that has this name has proved who it is, for the journal."""
    return name if "://" in name else f"dns:{name}"


def _decoded(names: Iterable[bytes]) -> tuple[str, ...]:
    texts = [name.decode("ascii", "replace") for name in names]
    if len(texts) > MAX_NAMES or any(len(text) > MAX_NAME_LENGTH or not text.isprintable() for text in texts):
        raise Unauthenticated(Scheme.CERTIFICATE, Hint.MALFORMED)
    return tuple(text for text in texts if text.isascii())


class NamedOwners(Generic[T]):
    """Who has which names: exact ones and patterns."""

    def __init__(self, owners: Mapping[str, T]) -> None:
        self._exact = {name: owner for name, owner in owners.items() if ANY not in name}
        self._patterns = [(_compiled(name), owner) for name, owner in owners.items() if ANY in name]

    def owner_of(self, names: Iterable[str]) -> tuple[str, T] | None:
        """The owner of these names of one certificate, and by which of them; an exact name before a pattern.

        Raises Unauthenticated if several owners have them.
        """
        found: list[tuple[str, T]] = []
        for name in names:
            owner = self._exact.get(name)
            if owner is not None:
                found.append((name, owner))
            else:
                found += [(name, each) for pattern, each in self._patterns if pattern.fullmatch(name)]
        if any(owner is not found[0][1] for _, owner in found):
            raise Unauthenticated(Scheme.CERTIFICATE, Hint.AMBIGUOUS)
        return found[0] if found else None


def _compiled(pattern: str) -> re.Pattern[str]:
    before, _, after = pattern.partition(ANY)
    return re.compile(f"{re.escape(before)}[^/]+{re.escape(after)}")
