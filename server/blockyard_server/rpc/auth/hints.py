"""Why a caller was not recognised: two closed sets, so that they may be the labels of a metric."""

from enum import StrEnum


class Scheme(StrEnum):
    """What a caller showed. The client is told `none`, `bearer` or `certificate`; the log has it as it is here."""

    NONE = "none"
    """Neither a bearer nor a certificate."""
    BEARER = "bearer"
    """A header `authorization` that is neither a known token nor a JWT."""
    TOKEN = "token"
    """A token of the auth file, of today's or of an earlier one."""
    JWT = "jwt"
    CERTIFICATE = "certificate"


class Hint(StrEnum):
    """What was wrong with it. For the log and the metrics; the client does not learn it."""

    MISSING = "missing"
    GIVEN_TWICE = "given_twice"
    NOT_BEARER = "not_bearer"
    """The header `authorization` has another scheme than Bearer."""
    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    """No principal of the auth file has this token, subject or name."""
    REVOKED = "revoked"
    """An earlier auth file, since this server started, had the token."""
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    UNKNOWN_ISSUER = "unknown_issuer"
    UNKNOWN_KEY = "unknown_key"
    """The issuer's keys are known, and this one is not among them."""
    KEYS_UNAVAILABLE = "keys_unavailable"
    """The issuer's keys were not read yet, or not for too long."""
    ALGORITHM_REFUSED = "algorithm_refused"
    BAD_SIGNATURE = "bad_signature"
    WRONG_AUDIENCE = "wrong_audience"
    CLAIM_MISSING = "claim_missing"
    NOT_AN_ID = "not_an_id"
    """`map` finds no tenant or no id in the claims, or one that is no id."""
    NAME_TAKEN = "name_taken"
    """`map` finds a tenant or a principal that would be mistaken for another one."""
    AMBIGUOUS = "ambiguous"
    """The certificate has names of several principals."""
