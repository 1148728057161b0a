"""Who is recognised, by the file as it is now; and what a change of the file does to those who are there."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blockyard_server.domain.policy import EVERYTHING, NOTHING, PERMISSIONS, Role
from blockyard_server.rpc.auth import file_authenticator
from blockyard_server.rpc.auth.auth_file import AuthFileRefused
from blockyard_server.rpc.auth.authenticator import Certificate, Metadata, Unauthenticated
from blockyard_server.rpc.auth.file_authenticator import JWT_CACHED_S, MAX_CACHED_JWTS, FileAuthenticator
from blockyard_server.rpc.auth.jwt import LEEWAY_S
from blockyard_server.rpc.auth.principal import ANONYMOUS, Principal, PrincipalLimits
from blockyard_server.rpc.auth.tokens import new_token
from tests.auth.issuer import AUDIENCE, ISS, NOW_S, jwks, key_for, public_jwk, signed
from tests.harness.patience import eventually

FIRST, SECOND, OTHER = new_token(), new_token(), new_token()
VIEWER = 'grant = [{ role = "viewer", fleets = ["*"] }]\n'
SCHEDULER = 'grant = [{ role = "scheduler", fleets = ["train-*"] }]\n'
SUBJECT = "system:serviceaccount:train:scheduler"
SPIFFE = "spiffe://corp.example/ns/train/sa/scheduler"
PEER: Certificate = {"peer_spiffe_id": [SPIFFE.encode()]}
MAP = (
    'map = { tenant = "kubernetes.io/namespace", grant = [{ role = "scheduler", fleets = ["{tenant}-*", "common"] }],'
    " weight = 3, limits = { watches = 5 } }\n"
)


class World:
    """A file, a clock, and an authenticator of both."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "auth.toml"
        self.jwks = folder / "jwks.json"
        self.jwks.write_bytes(jwks(public_jwk(key_for("ES256"), "k1")))
        self.now_s = NOW_S
        self.issuer = (
            f'[[issuer]]\nname = "k8s"\niss = "{ISS}"\naudience = "{AUDIENCE}"\njwks = "{self.jwks.as_uri()}"\n'
        )

    def write(self, *parts: str) -> None:
        self.path.write_text("".join(parts))
        self.path.chmod(0o600)

    def open(self, *parts: str) -> FileAuthenticator:
        self.write(*parts)
        return FileAuthenticator(self.path, now=lambda: self.now_s)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is looked at more often than a server does, so that the tests need not wait."""
    monkeypatch.setattr(file_authenticator, "POLL_S", 0.01)
    monkeypatch.setattr(file_authenticator, "SETTLE_S", 0.001)


def principal(text: str, id_: str = "sched-a", tenant: str = "train") -> str:
    return f'[[principal]]\nid = "{id_}"\ntenant = "{tenant}"\n{text}\n'


def tokens(*lines: str) -> str:
    return f"tokens = [{', '.join(lines)}]\n"


def bearer(token: str) -> Metadata:
    return (("user-agent", "x"), ("authorization", f"Bearer {token}"), ("te", "trailers"))


def login(of: FileAuthenticator, token: str, certificate: Certificate | None = None) -> Principal:
    return of.authenticate(bearer(token), certificate or {})


def refusal(of: FileAuthenticator, metadata: Metadata, certificate: Certificate | None = None) -> tuple[str, str, str]:
    with pytest.raises(Unauthenticated) as refused:
        of.authenticate(metadata, certificate or {})
    return refused.value.scheme, refused.value.hint, refused.value.subject


@asynccontextmanager
async def followed(of: FileAuthenticator) -> AsyncIterator[None]:
    of.start()
    try:
        yield
    finally:
        await of.stop()


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
        assert of.still_valid(found)


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
    assert of.still_valid(found)
    world.now_s += 1
    assert refusal(of, bearer(FIRST.secret)) == ("token", "expired", f"token:{FIRST.id}")
    assert not of.still_valid(found)


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
        (FIRST.secret, "bearer", "not_bearer"),
        (f"Basic {FIRST.secret}", "bearer", "not_bearer"),
        (f"Token {FIRST.secret}", "bearer", "not_bearer"),
        (f"Bearer\t{FIRST.secret}", "bearer", "not_bearer"),
        (f" Bearer {FIRST.secret}", "bearer", "not_bearer"),
        ("Bearer ", "bearer", "malformed"),
        (f"Bearer  {FIRST.secret}", "bearer", "malformed"),
        (f"Bearer {FIRST.secret} ", "bearer", "malformed"),
        (f"Bearer {FIRST.secret},Bearer {FIRST.secret}", "bearer", "malformed"),
        (f"Bearer {FIRST.secret}é", "bearer", "malformed"),
        ("Bearer \x00", "bearer", "malformed"),
        ("Bearer x", "bearer", "unknown"),
        ("Bearer a.b.c", "jwt", "unknown_issuer"),
        (f"Bearer {FIRST.secret}".encode(), "bearer", "malformed"),
    ],
)
def test_a_header_that_is_not_exactly_a_bearer_is_refused(
    world: World, value: str | bytes, scheme: str, hint: str
) -> None:
    of = world.open(principal(tokens(FIRST.toml()) + VIEWER))

    assert refusal(of, (("authorization", value),)) == (scheme, hint, "")


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
    assert of.still_valid(found)
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


# JWTs.


def test_a_jwt_is_the_principal_with_its_subject(world: World) -> None:
    of = world.open(principal(f'jwt = [{{ issuer = "k8s", sub = "{SUBJECT}" }}]\n' + SCHEDULER), world.issuer)
    found = login(of, signed())

    assert (found.id, found.tenant, found.via) == ("sched-a", "train", "jwt:k8s")
    assert found.expires_s == NOW_S + 3600 + LEEWAY_S
    assert of.still_valid(found)
    assert refusal(of, bearer(signed(sub="system:serviceaccount:train:other"))) == ("jwt", "unknown", "jwt:k8s")
    assert refusal(of, bearer(signed(key=key_for("ES256", 1)))) == ("jwt", "bad_signature", "jwt:k8s")


def test_a_jwt_without_an_entry_is_what_map_makes_of_its_claims(world: World) -> None:
    of = world.open(world.issuer, MAP)
    found = login(of, signed())

    assert (found.id, found.tenant, found.via) == ("scheduler", "train", "jwt:k8s")
    assert (found.weight, found.limits.watches, found.callers) == (3, 5, frozenset())
    assert found.policy.on("train-1") == found.policy.on("common") == PERMISSIONS[Role.SCHEDULER]
    assert found.policy.on("train") == found.policy.on("trainx-1") == found.policy.on("prod-1") == NOTHING
    assert of.still_valid(found)
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
    assert not of.still_valid(found)


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
    from hashlib import sha256  # noqa: PLC0415  # for this alone

    line = f'{{ id = "x", sha256 = "{sha256(b"a.b.c").hexdigest()}" }}'
    assert login(world.open(principal(tokens(line) + VIEWER), world.issuer), "a.b.c").via == "token:x"


# The file changes.


async def test_a_new_file_counts_at_once_and_tells_a_revoked_token_from_an_unknown_one(world: World) -> None:
    of = world.open(principal(tokens(FIRST.toml()) + VIEWER))
    before = login(of, FIRST.secret)

    world.write(principal(tokens(SECOND.toml()) + VIEWER))
    assert await of.reload_now()
    assert login(of, SECOND.secret).id == "sched-a"
    assert refusal(of, bearer(FIRST.secret)) == ("token", "revoked", f"token:{FIRST.id}")
    assert refusal(of, bearer(OTHER.secret)) == ("token", "unknown", "")
    assert not of.still_valid(before)
    world.write(principal(tokens(FIRST.toml()) + VIEWER))
    assert await of.reload_now()
    assert login(of, FIRST.secret) == before or of.still_valid(before)


@pytest.mark.parametrize(
    "after",
    [
        principal(tokens(OTHER.toml()) + VIEWER),
        principal(tokens(FIRST.toml()) + SCHEDULER),
        principal(tokens(FIRST.toml())),
        principal(tokens(FIRST.toml()) + VIEWER, tenant="prod"),
        principal(tokens(FIRST.toml()) + VIEWER, "sched-b"),
        principal(tokens(FIRST.toml()) + VIEWER + 'callers = ["old"]'),
        principal(tokens(FIRST.toml().replace(FIRST.sha256, OTHER.sha256)) + VIEWER),
    ],
    ids=["revoked", "other grants", "no grants", "other tenant", "other id", "other callers", "other secret, same id"],
)
async def test_a_long_call_ends_when_its_principal_would_be_another_one(world: World, after: str) -> None:
    of = world.open(principal(tokens(FIRST.toml()) + VIEWER))
    found = login(of, FIRST.secret)

    world.write(after)
    assert await of.reload_now()
    assert not of.still_valid(found)


async def test_a_long_call_goes_on_when_others_or_only_limits_change(world: World) -> None:
    of = world.open(
        principal(
            tokens(FIRST.toml()) + f'x509 = ["{SPIFFE}"]\njwt = [{{ issuer = "k8s", sub = "{SUBJECT}" }}]\n' + VIEWER
        ),
        world.issuer,
    )
    found = [login(of, FIRST.secret), of.authenticate((), PEER), login(of, signed())]

    world.write(
        principal(
            tokens(SECOND.toml(), FIRST.toml())
            + f'x509 = ["{SPIFFE}"]\njwt = [{{ issuer = "k8s", sub = "{SUBJECT}" }}]\n'
            + VIEWER
            + "weight = 5\nlimits = { calls = 3 }\n"
        ),
        principal(tokens(OTHER.toml()) + VIEWER, "sched-b"),
        world.issuer,
    )
    assert await of.reload_now()
    assert [of.still_valid(each) for each in found] == [True] * 3
    assert login(of, FIRST.secret).weight == 5


async def test_a_long_call_by_certificate_ends_with_its_name(world: World) -> None:
    of = world.open(principal('x509 = ["spiffe://corp.example/ns/train/sa/*"]\n' + VIEWER))
    found = of.authenticate((), PEER)

    world.write(
        principal('x509 = ["spiffe://corp.example/ns/train/sa/*"]\n' + VIEWER)
        + principal('x509 = ["spiffe://corp.example/ns/train/sa/sched*"]\n' + VIEWER, "sched-b")
    )
    assert await of.reload_now()
    assert not of.still_valid(found)  # it would be one of two
    world.write(principal('x509 = ["spiffe://corp.example/ns/prod/sa/*"]\n' + VIEWER))
    assert await of.reload_now()
    assert not of.still_valid(found)


async def test_a_long_call_by_jwt_ends_with_its_key_its_issuer_and_its_subject(world: World) -> None:
    entry = principal(f'jwt = [{{ issuer = "k8s", sub = "{SUBJECT}" }}]\n' + VIEWER)
    of = world.open(entry, world.issuer)
    found = login(of, signed())

    for parts in (
        (principal(VIEWER), world.issuer),
        (entry, world.issuer.replace(AUDIENCE, "other")),
        (principal(tokens(FIRST.toml()) + VIEWER),),
        (principal(VIEWER), world.issuer, MAP),
    ):
        world.write(entry, world.issuer)
        assert await of.reload_now()
        assert of.still_valid(found)
        world.write(*parts)
        assert await of.reload_now()
        assert not of.still_valid(found)


async def test_a_long_call_of_a_mapped_principal_ends_with_its_map(world: World) -> None:
    of = world.open(world.issuer, MAP)
    found = login(of, signed())

    for parts in (
        (world.issuer, MAP.replace("scheduler", "viewer")),
        (world.issuer, MAP, principal(VIEWER, "scheduler")),
        (world.issuer, MAP, principal(f'jwt = [{{ issuer = "k8s", sub = "{SUBJECT}" }}]\n' + VIEWER)),
        (world.issuer, MAP, principal('callers = ["train"]\n' + VIEWER, "x", "train")),
    ):
        world.write(world.issuer, MAP)
        assert await of.reload_now()
        assert of.still_valid(found)
        world.write(*parts)
        assert await of.reload_now()
        assert not of.still_valid(found)


async def test_a_key_that_its_issuer_takes_back_ends_its_jwts_also_cached_ones(world: World) -> None:
    of = world.open(world.issuer, MAP)
    token = signed()
    found = login(of, token)

    world.jwks.write_bytes(jwks(public_jwk(key_for("ES256", 1), "k2")))
    assert await of.keys["k8s"].refresh()
    assert not of.still_valid(found)
    assert refusal(of, bearer(token)) == ("jwt", "unknown_key", "jwt:k8s")
    assert login(of, signed(key_id="k2", key=key_for("ES256", 1))).id == "scheduler"


async def test_a_new_file_makes_cached_jwts_what_it_says(world: World) -> None:
    of = world.open(world.issuer, MAP)
    token = signed()
    keys = of.keys["k8s"]
    login(of, token)

    world.write(world.issuer, MAP.replace("scheduler", "viewer"))
    assert await of.reload_now()
    assert login(of, token).policy.on("train-1") == PERMISSIONS[Role.VIEWER]
    assert of.keys["k8s"] is keys  # an issuer that is away keeps its keys over a change of the file
    world.write(world.issuer.replace("jwks.json", "none.json"), MAP)
    assert await of.reload_now()
    assert refusal(of, bearer(token)) == ("jwt", "keys_unavailable", "jwt:k8s")


def test_nobody_whom_another_authenticator_knows_is_valid_here(world: World) -> None:
    of = world.open(principal(tokens(FIRST.toml()) + VIEWER))

    assert ANONYMOUS.policy.on("any") == EVERYTHING
    assert not of.still_valid(ANONYMOUS)
    found = login(of, FIRST.secret)
    assert not of.still_valid(Principal(found.id, found.tenant, found.via, found.policy))


async def test_a_file_that_cannot_be_used_changes_nothing_and_is_told(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    of = world.open(principal(tokens(FIRST.toml()) + VIEWER))
    found = login(of, FIRST.secret)
    file = of.file
    taken_s = of.status.last_success_s
    world.now_s += 1000

    world.write(principal(tokens(OTHER.toml()) + VIEWER + "x = 1\ny = 2\n"))
    assert not await of.reload_now()
    assert login(of, FIRST.secret) is found
    assert of.still_valid(found)
    assert of.file is file
    assert (of.status.failures, len(of.status.problems), of.status.last_success_s) == (1, 2, taken_s)
    assert [record.message.rpartition(": ")[2][:15] for record in caplog.records] == [
        "unknown key 'x'",
        "unknown key 'y'",
    ]
    world.path.unlink()
    assert not await of.reload_now()
    assert (of.status.failures, of.status.problems) == (2, ("the file cannot be read: No such file or directory",))
    world.write(principal(tokens(FIRST.toml()) + VIEWER))
    assert await of.reload_now()
    assert (of.status.failures, of.status.problems, of.status.last_success_s) == (2, (), world.now_s)


def test_a_start_with_a_file_that_cannot_be_used_is_refused(world: World) -> None:
    with pytest.raises(AuthFileRefused, match="No such file"):
        FileAuthenticator(world.path)
    with pytest.raises(AuthFileRefused, match="unknown key 'x'"):
        world.open("x = 1")


def test_a_start_does_not_wait_for_an_issuer_and_tells_the_file_of_keys_that_is_missing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.jwks.unlink()
    of = world.open(world.issuer, MAP)

    assert refusal(of, bearer(signed())) == ("jwt", "keys_unavailable", "jwt:k8s")
    assert "the keys of the issuer k8s cannot be read" in caplog.text


async def test_the_file_is_followed(world: World) -> None:
    of = world.open(principal(tokens(FIRST.toml()) + VIEWER))
    async with followed(of):
        for token in (SECOND, FIRST, OTHER):
            world.write(principal(tokens(token.toml()) + VIEWER))
            await eventually(_knows(of, token.secret), "the new file counted")
        world.write("broken")
        await eventually(_failed(of, 1), "the broken file was seen")
        assert login(of, OTHER.secret).id == "sched-a"
        world.write(principal(tokens(FIRST.toml()) + VIEWER))
        await eventually(_knows(of, FIRST.secret), "the next good file counted")


async def test_a_mounted_file_that_is_replaced_by_another_link_is_followed(world: World) -> None:
    """As Kubernetes does it, here with equal times and sizes."""
    folder = world.path.parent
    for name, token in (("..1", FIRST), ("..2", SECOND)):
        (folder / name).mkdir()
        (folder / name / "auth.toml").write_text(principal(tokens(token.toml()) + VIEWER))
        os.utime(folder / name / "auth.toml", (0, 0))
    (folder / "..data").symlink_to("..1")
    world.path.symlink_to("..data/auth.toml")
    of = FileAuthenticator(world.path)
    assert login(of, FIRST.secret).id == "sched-a"
    async with followed(of):
        (folder / "..new").symlink_to("..2")
        (folder / "..new").rename(folder / "..data")
        await eventually(_knows(of, SECOND.secret), "the new link was seen")


async def test_a_signal_has_the_file_read_also_if_it_did_not_change(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_authenticator, "POLL_S", 3600)
    of = world.open(principal(tokens(FIRST.toml()) + VIEWER))
    async with followed(of):
        before_s = of.status.last_success_s
        world.now_s += 5
        of.reload()

        async def read() -> bool:
            return of.status.last_success_s == before_s + 5

        await eventually(read, "the file was read")


async def test_the_keys_of_a_new_issuer_are_followed_and_those_of_a_removed_one_are_not(world: World) -> None:
    of = world.open(principal(tokens(FIRST.toml()) + VIEWER))
    async with followed(of):
        world.write(world.issuer, MAP)
        await eventually(_knows(of, signed()), "the issuer was known")
        keys = of.keys["k8s"]
        assert keys._task is not None
        world.write(principal(tokens(FIRST.toml()) + VIEWER))
        await eventually(_knows(of, FIRST.secret), "the issuer was gone")

        async def stopped() -> bool:
            return keys._task is None

        await eventually(stopped, "its keys are not read any more")
    assert of.keys == {}


async def test_a_fault_of_ours_does_not_end_the_following(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    of = world.open(principal(tokens(FIRST.toml()) + VIEWER))
    with monkeypatch.context() as patch:
        patch.setattr(FileAuthenticator, "_reload", _faulty)
        async with followed(of):
            world.write(principal(tokens(SECOND.toml()) + VIEWER))
            await eventually(_failed(of, 2), "the fault was met")
            patch.undo()
            monkeypatch.setattr(file_authenticator, "POLL_S", 0.01)
            await eventually(_knows(of, SECOND.secret), "the file counted afterwards")
    assert "unexpectedly" in caplog.text


async def test_no_token_stands_in_a_log_or_in_a_message(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    jwt_ = signed()
    of = world.open(principal(tokens(FIRST.toml()) + VIEWER), world.issuer, MAP)
    shown = [repr(login(of, FIRST.secret)), repr(login(of, jwt_)), repr(of.file)]
    world.write(principal(tokens(f'{{ id = "x", sha256 = "{SECOND.secret}" }}') + VIEWER))
    assert not await of.reload_now()
    world.write(principal(tokens(OTHER.toml()) + VIEWER))
    assert await of.reload_now()
    for metadata in (bearer(FIRST.secret), bearer(SECOND.secret), bearer(jwt_), (("authorization", FIRST.secret),)):
        with pytest.raises(Unauthenticated) as refused:
            of.authenticate(metadata, {})
        of.failed_logins.note("ipv4:192.0.2.1:5", refused.value)
        shown += [repr(refused.value), str(refused.value), refused.value.subject]
    of.failed_logins.flush()

    text = caplog.text + "".join(shown)
    assert "login refused" in text
    for secret in (FIRST.secret, SECOND.secret, OTHER.secret, *jwt_.split(".")[1:]):
        assert secret[14:] not in text


def _knows(of: FileAuthenticator, token: str) -> Any:
    async def check() -> bool:
        try:
            login(of, token)
        except Unauthenticated:
            return False
        return True

    return check


def _failed(of: FileAuthenticator, times: int) -> Any:
    async def check() -> bool:
        return of.status.failures >= times

    return check


async def _faulty(_self: FileAuthenticator) -> bool:
    raise ZeroDivisionError
