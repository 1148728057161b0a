"""What the texts of the auth file must be like. Each rule says what is wrong with one, as the end of a sentence."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from blockyard_server.domain.policy import Role
from blockyard_server.rpc.auth.certificates import problem_of_pattern
from blockyard_server.rpc.auth.tokens import MAX_TOKEN_ID_LENGTH, is_token_id
from blockyard_server.rpc.auth.toml_table import shown
from blockyard_server.rpc.names import ID_RULE, is_id

TENANT: Final = "{tenant}"
"""In a pattern of `map`: the tenant that the claims name."""
ALGORITHMS: Final[Mapping[str, tuple[str, str | None]]] = MappingProxyType(
    {
        "RS256": ("RSA", None),
        "RS384": ("RSA", None),
        "RS512": ("RSA", None),
        "PS256": ("RSA", None),
        "PS384": ("RSA", None),
        "PS512": ("RSA", None),
        "ES256": ("EC", "P-256"),
        "ES384": ("EC", "P-384"),
        "ES512": ("EC", "P-521"),
        "EdDSA": ("OKP", "Ed25519"),
    }
)
"""Signatures that may be allowed, with the kind and the curve of their keys. No HS256: its key both verifies and signs.
No none."""
MAX_LINE_LENGTH: Final = 512

_is_digest: Final = re.compile(r"[0-9a-fA-F]{64}").fullmatch
_is_line: Final = re.compile(rf"[!-~](?:[ -~]{{0,{MAX_LINE_LENGTH - 2}}}[!-~])?").fullmatch


def id_rule(value: str) -> str | None:
    """A tenant, a principal, a caller, an issuer's name."""
    return None if is_id(value) else f"must be {ID_RULE}; not {shown(value)}"


def token_id_rule(value: str) -> str | None:
    """The name of a token."""
    return None if is_token_id(value) else f"must be 1..{MAX_TOKEN_ID_LENGTH} characters of [A-Za-z0-9-]"


def digest_rule(value: str) -> str | None:
    """The SHA-256 of a token. The value is not shown: it may be a token, put here by mistake."""
    return None if _is_digest(value) else "must be the SHA-256 of a whole token, as 64 hexadecimal digits"


def line_rule(value: str) -> str | None:
    """An issuer, an audience, a subject: whatever others have chosen."""
    if _is_line(value):
        return None
    return f"must be 1..{MAX_LINE_LENGTH} printable ASCII characters, without spaces at its ends"


def certificate_name_rule(value: str) -> str | None:
    """A name of a certificate, or a pattern of them."""
    problem = problem_of_pattern(value)
    return None if problem is None else f"{shown(value)} {problem}"


def role_rule(value: str) -> str | None:
    """A role."""
    return None if value in set(Role) else f"must be one of {', '.join(Role)}; not {shown(value)}"


def fleets_rule(value: str) -> str | None:
    """A pattern of fleets. One that no fleet's id can match would be a rule without effect."""
    if is_id(value.replace("*", "a")):
        return None
    return f"{shown(value)} matches no fleet: a pattern is a fleet's id in which * stands for any characters"


def mapped_fleets_rule(value: str) -> str | None:
    """A pattern of fleets that may have `{tenant}`."""
    return fleets_rule(value.replace(TENANT, "a"))


def algorithm_rule(value: str) -> str | None:
    """An algorithm of signatures."""
    return None if value in ALGORITHMS else f"must be one of {', '.join(ALGORITHMS)}; not {shown(value)}"


def path_rule(value: str) -> str | None:
    """The path of a file."""
    return None if value.startswith("/") and "\0" not in value else "must be an absolute path"


def jwks_rule(value: str) -> str | None:
    """Where the keys of an issuer are. Somebody who can change them on their way can log in as anybody: no `http://`."""
    try:
        url = urlsplit(value)
        complete = url.scheme == "https" and url.hostname and url.port != 0
    except ValueError:
        return "is not a URL"
    if _is_line(value) is None or " " in value:
        return "must have printable ASCII characters only"
    if url.scheme == "file" and not url.netloc and url.path.startswith("/") and not (url.query or url.fragment):
        return None
    if not complete:
        return "must be https://HOST/… or file:///PATH"
    return "must have neither a user nor a fragment" if url.username is not None or url.fragment else None


def claim_rule(value: str) -> str | None:
    """Where a claim is: keys, from the outermost on, with slashes between them."""
    if _is_line(value) is None or not all(value.split("/")):
        return "must be a claim's name, or the names on the way to it with slashes between them"
    return None
