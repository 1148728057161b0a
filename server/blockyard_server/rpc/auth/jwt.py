"""Verifies JWTs (RFC 7519) of the issuers in the auth file.

What can be refused by looking at it is refused before a signature is computed: an issuer, a key or an algorithm that
the auth file does not allow, and a time that is over. Nothing here waits: keys that are not known yet are a refusal.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import jwt

from blockyard_server.rpc.auth.auth_file import IssuerEntry
from blockyard_server.rpc.auth.authenticator import Unauthenticated
from blockyard_server.rpc.auth.directory import JwtProof, VerifiedJwt
from blockyard_server.rpc.auth.hints import Hint, Scheme
from blockyard_server.rpc.auth.jwks import KeyCache

MAX_JWT_LENGTH: Final = 16_384
MAX_SUBJECT_LENGTH: Final = 512
MAX_TIME_S: Final = 1e12
LEEWAY_S: Final = 30.0
"""How far the clocks of an issuer and of this server may be apart."""

_UNVERIFIED: Final[Any] = {"verify_signature": False}
_VERIFIED: Final[Any] = {
    "require": ["exp", "iss", "aud", "sub"],
    # The times are compared here, by this server's clock, before the signature.
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "enforce_minimum_key_length": True,
}
_HINTS: Final = (
    (jwt.InvalidSignatureError, Hint.BAD_SIGNATURE),
    (jwt.InvalidAudienceError, Hint.WRONG_AUDIENCE),
    (jwt.InvalidIssuerError, Hint.UNKNOWN_ISSUER),
    (jwt.InvalidAlgorithmError, Hint.ALGORITHM_REFUSED),
    (jwt.MissingRequiredClaimError, Hint.CLAIM_MISSING),
)


class JwtVerifier:
    """Knows the issuers and their keys."""

    def __init__(
        self, issuers: Mapping[str, IssuerEntry], keys: Mapping[str, KeyCache], now: Callable[[], float]
    ) -> None:
        """`issuers` by `iss`, `keys` by the issuer's name; `now` in seconds since the epoch."""
        self.keys = keys
        self._issuers = issuers
        self._now = now

    def verify(self, token: str) -> VerifiedJwt:
        """What the JWT says, if all of it is right. Raises Unauthenticated."""
        header, claims = _decode(token)
        iss = claims.get("iss")
        issuer = self._issuers.get(iss) if isinstance(iss, str) else None
        if issuer is None:
            raise Unauthenticated(Scheme.JWT, Hint.UNKNOWN_ISSUER)
        via = f"jwt:{issuer.name}"
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in issuer.algorithms:
            raise Unauthenticated(Scheme.JWT, Hint.ALGORITHM_REFUSED, via)
        if not isinstance(key_id, str):
            raise Unauthenticated(Scheme.JWT, Hint.UNKNOWN_KEY, via)
        key = self.keys[issuer.name].find(key_id, algorithm)
        exp_s = self._check_times(claims, via)
        try:
            verified = jwt.decode(
                token, key, [algorithm], options=_VERIFIED, audience=issuer.audience, issuer=issuer.iss
            )
        except jwt.PyJWTError as error:
            hint = next((hint for kind, hint in _HINTS if isinstance(error, kind)), Hint.MALFORMED)
            raise Unauthenticated(Scheme.JWT, hint, via) from None
        subject = verified["sub"]
        if not 0 < len(subject) <= MAX_SUBJECT_LENGTH:
            raise Unauthenticated(Scheme.JWT, Hint.CLAIM_MISSING, via)
        return VerifiedJwt(JwtProof(issuer, subject, key_id), verified, exp_s, exp_s + LEEWAY_S)

    def still_verifies(self, proof: JwtProof) -> bool:
        """Whether the key that signed it is still one of its issuer's."""
        keys = self.keys.get(proof.issuer.name)
        return keys is not None and keys.knows(proof.key)

    def _check_times(self, claims: Mapping[str, Any], via: str) -> float:
        """When it ends, in seconds since the epoch. Raises Unauthenticated if that is over, or it has not begun."""
        now_s = self._now()
        if claims.get("exp") is None:
            raise Unauthenticated(Scheme.JWT, Hint.CLAIM_MISSING, via)
        for claim in ("nbf", "iat"):
            if claims.get(claim) is not None and _seconds(claims[claim], via) > now_s + LEEWAY_S:
                raise Unauthenticated(Scheme.JWT, Hint.NOT_YET_VALID, via)
        exp_s = _seconds(claims["exp"], via)
        if now_s >= exp_s + LEEWAY_S:
            raise Unauthenticated(Scheme.JWT, Hint.EXPIRED, via)
        return exp_s


def _decode(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The header and the claims; nothing of them is true yet. Raises Unauthenticated."""
    if len(token) > MAX_JWT_LENGTH:
        raise Unauthenticated(Scheme.JWT, Hint.MALFORMED)
    try:
        decoded = jwt.decode_complete(token, options=_UNVERIFIED)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise Unauthenticated(Scheme.JWT, Hint.MALFORMED) from None
    header, claims = decoded["header"], decoded["payload"]
    if "crit" in header or "b64" in header:  # extensions that would have to be understood
        raise Unauthenticated(Scheme.JWT, Hint.MALFORMED)
    return header, claims


def _seconds(value: object, via: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -MAX_TIME_S <= value <= MAX_TIME_S:
        raise Unauthenticated(Scheme.JWT, Hint.MALFORMED, via)
    return value
