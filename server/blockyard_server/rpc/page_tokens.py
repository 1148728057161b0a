"""Page tokens: where a list goes on, opaque to clients.

A token is the base64 of a version, a digest of the list it belongs to (the RPC and every field but the
page's size and token), and the cursor. The digest is not a secret: it turns the mistake of using a token
with other filters into an error, instead of into a wrong page.
"""

import base64
import binascii
import hashlib
from typing import Final

from blockyard_server.rpc.fields import MAX_INT64, Violations
from blockyard_server.rpc.names import is_id

_VERSION: Final = b"\x01"
_DIGEST_BYTES: Final = 8
_HEAD_BYTES: Final = len(_VERSION) + _DIGEST_BYTES
_MAX_LENGTH: Final = 128
_PROBLEM: Final = "must be the next_page_token of an answer to the same request"


def _digest(scope: tuple[object, ...]) -> bytes:
    return hashlib.blake2b(repr(scope).encode(), digest_size=_DIGEST_BYTES).digest()


def encode_page_token(scope: tuple[object, ...], cursor: int | str | None) -> str:
    """The token of the page after `cursor`; empty for None: there is no further page.

    `scope` is the RPC's name and every decoded field that makes it this list and no other.
    """
    if cursor is None:
        return ""
    return base64.urlsafe_b64encode(_VERSION + _digest(scope) + str(cursor).encode()).decode()


def decode_number_token(scope: tuple[object, ...], token: str, first: int, bad: Violations) -> int:
    """The cursor of a list that is ordered by a number; `first` without a token."""
    if not token:
        return first
    cursor = _open(scope, token)
    if cursor is None or not cursor.isascii() or not cursor.isdigit() or int(cursor) > MAX_INT64:
        bad.append(("page_token", _PROBLEM))
        return first
    return int(cursor)


def decode_id_token(scope: tuple[object, ...], token: str, bad: Violations) -> str:
    """The cursor of a list that is ordered by id; empty without a token."""
    if not token:
        return ""
    cursor = _open(scope, token)
    if cursor is None or not is_id(cursor):
        bad.append(("page_token", _PROBLEM))
        return ""
    return cursor


def _open(scope: tuple[object, ...], token: str) -> str | None:
    if len(token) > _MAX_LENGTH:
        return None
    try:
        content = base64.b64decode(token, altchars=b"-_", validate=True)
        if content[:_HEAD_BYTES] != _VERSION + _digest(scope):
            return None
        return content[_HEAD_BYTES:].decode()
    except (binascii.Error, ValueError):  # ValueError: characters outside ASCII or UTF-8
        return None
