"""Who is recognised by a token, a certificate or a JWT, and who is not."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from blockyard_server.domain.policy import NOTHING, PERMISSIONS, Role
from blockyard_server.rpc.auth import directory, file_authenticator
from blockyard_server.rpc.auth.file_authenticator import JWT_CACHED_S, MAX_CACHED_JWTS
from blockyard_server.rpc.auth.jwt import LEEWAY_S
from blockyard_server.rpc.auth.principal import PrincipalLimits
from tests.auth.issuer import NOW_S, key_for, signed
from tests.auth.world import (
    FIRST,
    MAP,
    OTHER,
    PEER,
    SCHEDULER,
    SECOND,
    SPIFFE,
    SUBJECT,
    VIEWER,
    World,
    bearer,
    login,
    principal,
    refusal,
    tokens,
)

# Static tokens.


def test_a_token_is_its_principal(world: World) -> None:
    text = principal(
        tokens(FIRST.toml(), SECOND.toml())
        + SCHEDULER
        + 'callers = ["default"]\nweight = 2\nlimits = { watches = 7 }\n'
    )
    of = world.open(text)

    for token in (FIRST, SECOND):
        found = login(of, token.secret)
        assert (found.id, found.tenant, found.name) == ("sched-a", "train", "train/sched-a")
        assert found.via == f"token:{token.id}"
        assert found.policy.on("train-1") == PERMISSIONS[Role.SCHEDULER]
        assert found.policy.on("other") == NOTHING
        assert found.callers == {"default"}
        assert (found.weight, found.limits) == (2, PrincipalLimits(watches=7))
        assert found.expires_s is None
        assert of.is_still_valid(found)


def test_only_the_whole_token_is_one(world: World) -> None:
    of = world.open(principal(tokens(FIRST.toml()) + VIEWER))

    changed = FIRST.secret[:-1] + ("a" if FIRST.secret[-1] != "a" else "b")
    assert refusal(of, bearer(changed)) == ("token", "unknown", "")
    assert refusal(of, bearer(OTHER.secret)) == ("token", "unknown", "")
    for token in (FIRST.secret[:-1], FIRST.secret + "x", FIRST.secret[:14], FIRST.sha256, FIRST.secret.upper()):
        assert refusal(of, bearer(token)) == ("bearer", "unknown", "")


def test_a_token_ends_when_the_file_says_so(world: World) -> None:
    of = world.open(principal(tokens(f"{FIRST.toml()[:-2]}, not_after = 2030-03-17T17:46:41Z }}") + VIEWER))
    found = login(of, FIRST.secret)

    assert found.expires_s == NOW_S + 1
    assert of.is_still_valid(found)
    world.now_s += 1
    assert refusal(of, bearer(FIRST.secret)) == ("token", "expired", f"token:{FIRST.id}")
    assert not of.is_still_valid(found)


# The header.


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_scheme_is_a_word_of_http_where_case_does_not_count(world: World, scheme: str) -> None:
    of = world.open(principal(tokens(FIRST.toml()) + VIEWER))

    assert of.authenticate((("authorization", f"{scheme} {FIRST.secret}"),), {}).id == "sched-a"


@pytest.mark.parametrize(
    ("value", "scheme", "hint"),
    [
        ("", "bearer", "not_bearer"),
        ("Bearer", "bearer", "not_bearer"),
        ("{TOKEN}", "bearer", "not_bearer"),
        ("Basic {TOKEN}", "bearer", "not_bearer"),
        ("Token {TOKEN}", "bearer", "not_bearer"),
        ("Bearer\t{TOKEN}", "bearer", "not_bearer"),
        (" Bearer {TOKEN}", "bearer", "not_bearer"),
        ("Bearer ", "bearer", "malformed"),
        ("Bearer  {TOKEN}", "bearer", "malformed"),
        ("Bearer {TOKEN} ", "bearer", "malformed"),
        ("Bearer {TOKEN},Bearer {TOKEN}", "bearer", "malformed"),
        ("Bearer {TOKEN}é", "bearer", "malformed"),
        ("Bearer \x00", "bearer", "malformed"),
        ("Bearer \ud800", "bearer", "malformed"),
        ("Bearer x", "bearer", "unknown"),
        ("Bearer a.b.c", "jwt", "unknown_issuer"),
        (b"Bearer {TOKEN}", "bearer", "malformed"),
    ],
)
def test_a_header_that_is_not_exactly_a_bearer_is_refused(
    world: World, value: str | bytes, scheme: str, hint: str
) -> None:
    """`{TOKEN}` stands for a good one, which is another one in each run."""
    of = world.open(principal(tokens(FIRST.toml()) + VIEWER))
    given: str | bytes
    if isinstance(value, str):
        given = value.replace("{TOKEN}", FIRST.secret)
    else:
        given = value.replace(b"{TOKEN}", FIRST.secret.encode())

    assert refusal(of, (("authorization", given),)) == (scheme, hint, "")


def test_a_header_that_is_given_twice_is_refused_also_with_the_same_token(world: World) -> None:
    of = world.open(principal(tokens(FIRST.toml()) + VIEWER))

    assert refusal(of, (*bearer(FIRST.secret), *bearer(FIRST.secret))) == ("bearer", "given_twice", "")
    assert refusal(of, (("authorization", ""), *bearer(FIRST.secret))) == ("bearer", "given_twice", "")


def test_who_shows_nothing_is_nobody(world: World) -> None:
    of = world.open(principal(tokens(FIRST.toml()) + VIEWER))

    assert refusal(of, ()) == ("none", "missing", "")
    assert refusal(of, (("authorization2", f"Bearer {FIRST.secret}"), ("Authorization", "x"))) == (
        "none",
        "missing",
        "",
    )


# Certificates.


def test_a_certificate_is_its_principal(world: World) -> None:
    of = world.open(principal(f'x509 = ["{SPIFFE}"]\n' + SCHEDULER) + principal('x509 = ["host-1"]\n' + VIEWER, "host"))
    found = of.authenticate((("user-agent", "x"),), PEER)

    assert (found.id, found.via, found.expires_s) == ("sched-a", SPIFFE, None)
    assert of.is_still_valid(found)
    assert of.authenticate((), {**PEER, "peer_dns": [b"host-1"]}) is found
    assert of.authenticate((), {"peer_dns": [b"HOST-1"]}).via == "dns:host-1"
    assert refusal(of, (), {"peer_dns": [b"host-2"]}) == ("certificate", "unknown", "")
    assert refusal(of, (), {"x509_common_name": [b"host-1"]}) == ("certificate", "unknown", "")


def test_a_bearer_decides_also_beside_a_certificate(world: World) -> None:
    of = world.open(
        principal(tokens(FIRST.toml()) + VIEWER) + principal(f'x509 = ["{SPIFFE}"]\n' + SCHEDULER, "sched-b")
    )

    assert login(of, FIRST.secret, PEER).id == "sched-a"
    assert refusal(of, bearer(OTHER.secret), PEER) == ("token", "unknown", "")
    assert refusal(of, (("authorization", "Basic x"),), PEER) == ("bearer", "not_bearer", "")
    assert refusal(of, (("authorization", ""),), PEER) == ("bearer", "not_bearer", "")


def test_what_is_remembered_of_certificates_and_tenants_is_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "MAX_CERTIFICATES", 3)
    monkeypatch.setattr(directory, "MAX_MAPPED_POLICIES", 3)
    of = world.open(principal('x509 = ["spiffe://corp.example/*"]\n' + VIEWER), world.issuer, MAP)
    for number in range(10):
        claims: dict[str, Any] = {"kubernetes.io": {"namespace": f"team-{number}"}}
        assert login(of, signed(**claims)).tenant == f"team-{number}"
        assert of.authenticate((), {"peer_spiffe_id": [b"spiffe://corp.example/%d" % number]}).id == "sched-a"

    assert len(of._state.directory._by_names) <= 3
    assert len(of._state.directory._mapped_policies) <= 3


# JWTs.


def test_a_jwt_is_the_principal_with_its_subject(world: World) -> None:
    of = world.open(principal(f'jwt = [{{ issuer = "k8s", sub = "{SUBJECT}" }}]\n' + SCHEDULER), world.issuer)
    found = login(of, signed())

    assert (found.id, found.tenant, found.via) == ("sched-a", "train", "jwt:k8s")
    assert found.expires_s == NOW_S + 3600 + LEEWAY_S
    assert of.is_still_valid(found)
    assert refusal(of, bearer(signed(sub="system:serviceaccount:train:other"))) == ("jwt", "unknown", "jwt:k8s")
    assert refusal(of, bearer(signed(key=key_for("ES256", 1)))) == ("jwt", "bad_signature", "jwt:k8s")


def test_a_jwt_without_an_entry_is_what_map_makes_of_its_claims(world: World) -> None:
    of = world.open(world.issuer, MAP)
    found = login(of, signed())

    assert (found.id, found.tenant, found.via) == ("scheduler", "train", "jwt:k8s")
    assert (found.weight, found.limits.watches, found.callers) == (3, 5, frozenset())
    assert found.policy.on("train-1") == found.policy.on("common") == PERMISSIONS[Role.SCHEDULER]
    assert found.policy.on("train") == found.policy.on("trainx-1") == found.policy.on("prod-1") == NOTHING
    assert of.is_still_valid(found)
    in_prod: dict[str, Any] = {"kubernetes.io": {"namespace": "prod"}}
    other = login(of, signed(sub="x:batch", **in_prod))
    assert (other.id, other.tenant, other.policy.on("train-1")) == ("batch", "prod", NOTHING)
    assert login(of, signed(sub="x:b")).policy is found.policy


def test_map_may_name_the_claim_of_the_id(world: World) -> None:
    of = world.open(world.issuer, MAP.replace("map = {", 'map = { id = "kubernetes.io/serviceaccount/name",'))

    assert login(of, signed(sub="anything at all")).id == "scheduler"


@pytest.mark.parametrize(
    "claims",
    [
        {"kubernetes.io": None},
        {"kubernetes.io": {}},
        {"kubernetes.io": "train"},
        {"kubernetes.io": {"namespace": {"namespace": "train"}}},
        {"kubernetes.io/namespace": "train", "kubernetes.io": None},
        *(
            {"kubernetes.io": {"namespace": tenant}}
            for tenant in ("", "*", "a/b", "Train", "train\n", "t" * 64, 3, None)
        ),
        *({"sub": sub} for sub in ("a:", "a:B", "a:*", "a:b/c", "a: b")),
    ],
)
def test_claims_that_give_no_id_are_refused(world: World, claims: dict[str, Any]) -> None:
    of = world.open(world.issuer, MAP)

    assert refusal(of, bearer(signed(**claims))) == ("jwt", "not_an_id", "jwt:k8s")


def test_a_mapped_name_is_never_that_of_somebody_else(world: World) -> None:
    """Neither a principal of the file, nor the owner of what was acquired before there were identities."""
    of = world.open(
        principal(VIEWER + 'callers = ["old"]', "scheduler"), principal(VIEWER, "other", "prod"), world.issuer, MAP
    )

    for namespace, name in (("train", "scheduler"), ("prod", "other"), ("old", "x"), ("default", "x")):
        claims: dict[str, Any] = {"kubernetes.io": {"namespace": namespace}, "sub": f"x:{name}"}
        assert refusal(of, bearer(signed(**claims))) == ("jwt", "name_taken", "jwt:k8s")
    assert login(of, signed(sub="x:other")).name == "train/other"


def test_an_expired_jwt_never_comes_from_the_cache(world: World) -> None:
    of = world.open(world.issuer, MAP)
    token = signed(exp=NOW_S + 60)

    found = login(of, token)
    assert login(of, token) is found
    world.now_s += 60 + LEEWAY_S - 1
    assert login(of, token) is not found  # by the leeway; it is verified again
    world.now_s += 1
    assert refusal(of, bearer(token)) == ("jwt", "expired", "jwt:k8s")
    assert not of.is_still_valid(found)


def test_a_jwt_is_verified_again_after_five_minutes(world: World) -> None:
    of = world.open(world.issuer, MAP)
    token = signed()

    found = login(of, token)
    world.now_s += JWT_CACHED_S - 1
    assert login(of, token) is found
    world.now_s += 1
    again = login(of, token)
    assert again is not found
    assert again == replace(found, policy=again.policy)


def test_jwts_are_cached_up_to_a_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_CACHED_JWTS == 10_000
    monkeypatch.setattr(file_authenticator, "MAX_CACHED_JWTS", 3)
    of = world.open(world.issuer, MAP)
    made = [signed(sub=f"x:{number}") for number in range(5)]

    found = [login(of, token) for token in made]
    assert len(of._jwts) == 3
    assert login(of, made[4]) is found[4]
    assert login(of, made[0]) is not found[0]


def test_a_refused_jwt_is_not_remembered(world: World) -> None:
    of = world.open(world.issuer, MAP)
    for number in range(10):
        refusal(of, bearer(signed(key_id=f"k{number + 2}")))
        refusal(of, bearer(signed(sub=f"x:A{number}")))

    assert len(of._jwts) == 0


def test_a_static_token_that_looks_like_a_jwt_is_a_static_token(world: World) -> None:
    line = f'{{ id = "x", sha256 = "{sha256(b"a.b.c").hexdigest()}" }}'
    assert login(world.open(principal(tokens(line) + VIEWER), world.issuer), "a.b.c").via == "token:x"


def test_a_tenant_owns_what_any_of_its_principals_names(world: World) -> None:
    of = world.open(
        principal(tokens(FIRST.toml()) + VIEWER + 'callers = ["old"]\n'),
        principal(tokens(SECOND.toml()) + VIEWER, "sched-b"),
        principal(tokens(OTHER.toml()) + VIEWER, "other", "prod"),
    )

    assert [login(of, each.secret).owns("old") for each in (FIRST, SECOND, OTHER)] == [True, True, False]
    assert all(of.is_still_valid(login(of, each.secret)) for each in (FIRST, SECOND, OTHER))
