"""Static tokens: random enough that a fast hash protects them, and found by that hash alone.

A token is `bkyd_`, 8 characters that name it in logs, and 32 random bytes in base 62. Secret scanners know the prefix.
At rest there is only the SHA-256 of the whole: 256 bits cannot be guessed, so nothing slower is needed, and the time
of a lookup by digest tells nothing about the token.
"""

import hashlib
import re
import secrets
import string
from dataclasses import dataclass
from datetime import datetime
from typing import Final

PREFIX: Final = "bkyd_"
ID_LENGTH: Final = 8
SECRET_BYTES: Final = 32
SECRET_LENGTH: Final = 43
"""62^43 is more than 2^256."""
MAX_TOKEN_ID_LENGTH: Final = 32

_DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_DIGITS: Final = string.digits + string.ascii_lowercase
is_token: Final = re.compile(rf"{PREFIX}[0-9a-z]{{{ID_LENGTH}}}_[0-9A-Za-z]{{{SECRET_LENGTH}}}").fullmatch
is_token_id: Final = re.compile(rf"[0-9A-Za-z-]{{1,{MAX_TOKEN_ID_LENGTH}}}").fullmatch


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that nobody else knows yet."""

    id: str
    """Its name in the auth file and in logs."""
    secret: str
    """The whole token. It is shown once and kept nowhere."""

    def __repr__(self) -> str:
        """Without the secret: a value that is shown by accident tells nothing."""
        return f"NewToken(id={self.id!r})"

    @property
    def sha256(self) -> str:
        """As the auth file has it."""
        return digest(self.secret).hex()

    def toml(self, not_after: datetime | None = None) -> str:
        """The token's entry in `tokens` of the auth file."""
        end = "" if not_after is None else f", not_after = {not_after.isoformat().replace('+00:00', 'Z')}"
        return f'{{ id = "{self.id}", sha256 = "{self.sha256}"{end} }}'


def new_token() -> NewToken:
    """A new token, out of the system's randomness."""
    id_ = "".join(secrets.choice(_ID_DIGITS) for _ in range(ID_LENGTH))
    return NewToken(id_, f"{PREFIX}{id_}_{_base62(secrets.token_bytes(SECRET_BYTES))}")


def digest(token: str) -> bytes:
    """What is looked up: of the whole token, never of a part of it."""
    return hashlib.sha256(token.encode()).digest()


def _base62(data: bytes) -> str:
    number = int.from_bytes(data)
    digits = ""
    for _ in range(SECRET_LENGTH):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
