"""JWTs: what is accepted, and why everything else is not. The keys and the signatures are real ones."""

import base64
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from blockyard_server.rpc.auth.auth_file import IssuerEntry
from blockyard_server.rpc.auth.auth_file_rules import ALGORITHMS
from blockyard_server.rpc.auth.authenticator import Unauthenticated
from blockyard_server.rpc.auth.jwks import KeyCache
from blockyard_server.rpc.auth.jwt import LEEWAY_S, MAX_JWT_LENGTH, JwtVerifier
from tests.auth.issuer import AUDIENCE, ISS, NOW_S, jwks, key_for, public_jwk, signed
from tests.auth.sources import Memory


def verifier(
    *keys: Mapping[str, object],
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA"),
    now: Callable[[], float] = lambda: NOW_S,
) -> JwtVerifier:
    """Of one issuer with these keys."""
    issuer = IssuerEntry("k8s", ISS, AUDIENCE, "file:///unused", algorithms=algorithms)
    cache = KeyCache(issuer, source=Memory(jwks(*keys)))
    cache.read_local()
    return JwtVerifier({ISS: issuer}, {"k8s": cache}, now)


def ordinary(**settings_: Any) -> JwtVerifier:
    return verifier(
        *(public_jwk(key_for(algorithm), algorithm) for algorithm in ("RS256", "ES256", "EdDSA")), **settings_
    )


def hint_of(token: str, of: JwtVerifier | None = None) -> str:
    with pytest.raises(Unauthenticated) as refused:
        (of or ordinary()).verify(token)
    assert refused.value.scheme == "jwt"
    return refused.value.hint


def written(header: Mapping[str, Any], claims: object, signature: bytes = b"x") -> str:
    """A token whose parts are these, however wrong."""
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts).decode()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_jwt_of_each_algorithm_is_accepted(algorithm: str) -> None:
    found = verifier(public_jwk(key_for(algorithm), "k1"), algorithms=(algorithm,)).verify(signed(algorithm))

    assert (found.proof.issuer.name, found.proof.key) == ("k8s", "k1")
    assert found.proof.subject == "system:serviceaccount:train:scheduler"
    assert found.claims["kubernetes.io"]["namespace"] == "train"
    assert (found.exp_s, found.expires_s) == (NOW_S + 3600, NOW_S + 3600 + LEEWAY_S)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_signature_that_is_not_of_this_key_is_refused(algorithm: str) -> None:
    other = signed(algorithm, algorithm, key_for(algorithm, 1))
    right = signed(algorithm, algorithm)
    changed = right.rpartition(".")[0] + "." + other.rpartition(".")[2]

    assert hint_of(other) == "bad_signature"
    assert hint_of(changed) == "bad_signature"


def test_changed_claims_are_refused() -> None:
    header, _, signature = signed(key_id="ES256").split(".")
    _, claims, _ = signed(key_id="ES256", sub="root").split(".")

    assert hint_of(f"{header}.{claims}.{signature}") == "bad_signature"


@pytest.mark.parametrize("algorithm", ["HS256", "none", "ES384", "", None, 3, ["ES256"], {}])
def test_an_algorithm_that_the_file_does_not_allow_is_refused_before_the_signature(algorithm: object) -> None:
    claims = {"iss": ISS, "aud": AUDIENCE, "sub": "s", "exp": NOW_S + 9}

    assert hint_of(written({"alg": algorithm, "kid": "ES256"}, claims)) == "algorithm_refused"


def test_a_public_key_is_never_taken_for_a_shared_secret() -> None:
    public = (
        key_for("RS256")
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    claims = {"iss": ISS, "aud": AUDIENCE, "sub": "s", "exp": NOW_S + 9}
    unsigned = written({"alg": "HS256", "kid": "RS256"}, claims).rpartition(".")[0]
    code = hmac.digest(public, unsigned.encode(), "sha256")
    forged = f"{unsigned}.{base64.urlsafe_b64encode(code).rstrip(b'=').decode()}"

    assert hint_of(forged) == "algorithm_refused"


def test_a_key_verifies_only_the_algorithms_of_its_kind() -> None:
    both = verifier(public_jwk(key_for("RS256"), "k1", alg="RS256"), algorithms=("RS256", "PS256", "ES256"))

    assert both.verify(signed("RS256")).proof.key == "k1"
    assert hint_of(signed("PS256", key=key_for("RS256")), both) == "algorithm_refused"
    assert hint_of(signed("ES256"), both) == "algorithm_refused"


def test_an_unknown_key_or_issuer_is_refused_before_the_signature() -> None:
    assert hint_of(signed(key_id="k9")) == "unknown_key"
    assert hint_of(written({"alg": "ES256"}, {"iss": ISS})) == "unknown_key"
    assert hint_of(written({"alg": "ES256", "kid": ["ES256"]}, {"iss": ISS})) == "malformed"
    issuers: list[object] = ["https://other.example", f"{ISS}/", "", None, 3, [ISS], {}]
    for iss in issuers:
        assert hint_of(written({"alg": "ES256", "kid": "ES256"}, {"iss": iss})) == "unknown_issuer"


@pytest.mark.parametrize("claim", ["exp", "aud", "sub"])
def test_a_claim_that_is_missing_is_refused(claim: str) -> None:
    without: dict[str, Any] = {claim: None}
    assert hint_of(signed(key_id="ES256", **without)) == "claim_missing"


@pytest.mark.parametrize(
    "audience", ["other", ["other"], "Blockyard", "blockyard2", ["blockyard", 3], {"blockyard": 1}]
)
def test_a_jwt_for_others_is_refused(audience: object) -> None:
    assert hint_of(signed(key_id="ES256", aud=audience)) == "wrong_audience"


def test_one_of_several_audiences_may_be_this_one() -> None:
    assert ordinary().verify(signed(key_id="ES256", aud=["other", AUDIENCE])).proof.key == "ES256"


@pytest.mark.parametrize(
    ("claims", "hint"),
    [
        ({"exp": NOW_S - LEEWAY_S}, "expired"),
        ({"exp": 0}, "expired"),
        ({"exp": -1e12}, "expired"),
        ({"nbf": NOW_S + LEEWAY_S + 1}, "not_yet_valid"),
        ({"iat": NOW_S + LEEWAY_S + 1}, "not_yet_valid"),
        *(
            ({claim: value}, "malformed")
            for claim in ("exp", "nbf", "iat")
            for value in ("2000000000", True, [1], 1e13)
        ),
        ({"sub": ""}, "claim_missing"),
        ({"sub": "s" * 513}, "claim_missing"),
        ({"jti": 3}, "malformed"),
    ],
)
def test_a_time_that_is_over_or_has_not_begun_is_refused(claims: dict[str, Any], hint: str) -> None:
    assert hint_of(signed(key_id="ES256", **claims)) == hint


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW_S - LEEWAY_S + 1},
        {"nbf": NOW_S + LEEWAY_S},
        {"iat": NOW_S + LEEWAY_S},
        {"nbf": None, "iat": None},
        {"exp": NOW_S + 0.5},
    ],
)
def test_clocks_may_differ_by_the_leeway_and_providers_may_leave_nbf_out(claims: dict[str, Any]) -> None:
    assert ordinary().verify(signed(key_id="ES256", **claims)).proof.key == "ES256"


def test_a_subject_that_is_no_text_is_refused() -> None:
    claims = {"iss": ISS, "aud": AUDIENCE, "exp": NOW_S + 9, "sub": 3}
    payload = json.dumps(claims).encode()
    token = jwt.api_jws.encode(payload, key_for("ES256"), "ES256", {"kid": "ES256"})

    assert hint_of(token) == "malformed"


@pytest.mark.parametrize("header", [{"crit": ["exp"], "exp": 1}, {"crit": []}, {"b64": True}])
def test_an_extension_that_would_have_to_be_understood_is_refused(header: dict[str, Any]) -> None:
    token = written({"alg": "ES256", "kid": "ES256", **header}, {"iss": ISS})

    assert hint_of(token) == "malformed"


def test_keys_in_the_header_are_not_looked_at() -> None:
    own = key_for("ES256", 7)
    token = signed("ES256", "ES256", own, {"jwk": public_jwk(own, "ES256"), "jku": "https://evil.example"})

    assert hint_of(token) == "bad_signature"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "..",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        written({}, [1]),
        written({}, None),
        "W10.e30.eA",  # the header is a list
        f"{signed(key_id='ES256')}=",
        f"{signed(key_id='ES256')}\n",
        f" {signed(key_id='ES256')}",
        written({"alg": "ES256", "x": "y" * MAX_JWT_LENGTH}, {"iss": ISS}),
        base64.urlsafe_b64encode(b'{"a":' * 2000).decode().rstrip("=") + ".e30.eA",
        "e30." + base64.urlsafe_b64encode(b"[" * 9000).decode().rstrip("=") + ".eA",
        "e30." + base64.urlsafe_b64encode(b'{"exp": ' + b"9" * 5000 + b"}").decode().rstrip("=") + ".eA",
        "_w.e30.eA",  # not UTF-8
    ],
)
def test_what_is_no_jwt_is_refused(token: str) -> None:
    assert hint_of(token) == "malformed"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_CLAIMS = st.dictionaries(st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "jti", "x"]), _JSON)


@settings(max_examples=200, deadline=None)
@given(header=st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64"]), _JSON), claims=_CLAIMS)
def test_whatever_a_stranger_writes_is_refused_and_nothing_else_happens(
    header: dict[str, Any], claims: dict[str, Any]
) -> None:
    of = ordinary()
    hint_of(written(header, claims), of)
    hint_of(written({"alg": "ES256", "kid": "ES256"} | header, {"iss": ISS, "exp": NOW_S + 9} | claims), of)


@settings(max_examples=200, deadline=None)
@given(claims=_CLAIMS)
def test_what_an_issuer_signs_is_accepted_only_with_claims_of_the_right_kind(claims: dict[str, Any]) -> None:
    payload: dict[str, Any] = {"iss": ISS, "aud": AUDIENCE, "sub": "s", "exp": NOW_S + 9} | claims
    token = jwt.api_jws.encode(json.dumps(payload).encode(), key_for("ES256"), "ES256", {"kid": "ES256"})
    try:
        found = ordinary().verify(token)
    except Unauthenticated:
        return
    assert payload["iss"] == ISS
    assert payload["aud"] == AUDIENCE or AUDIENCE in payload["aud"]
    assert isinstance(payload["sub"], str)
    assert payload["exp"] > NOW_S - LEEWAY_S
    assert found.proof.subject == payload["sub"]


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, 400), character=st.characters(codec="ascii"))
def test_one_changed_character_never_makes_another_jwt(place: int, character: str) -> None:
    right = signed(key_id="EdDSA", algorithm="EdDSA")
    place %= len(right)
    changed = right[:place] + character + right[place + 1 :]
    try:
        found = ordinary().verify(changed)
    except Unauthenticated:
        return
    # The last character of a part has bits that stand for nothing.
    assert found.claims == ordinary().verify(right).claims


def test_a_short_key_is_not_used() -> None:
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505  # that is the point
    of = verifier(public_jwk(short, "short"), public_jwk(key_for("RS256"), "k1"))

    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = signed("RS256", "short", short)
    assert hint_of(token, of) == "unknown_key"
