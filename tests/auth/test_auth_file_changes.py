"""What a change of the auth file does: to those who log in, to long calls, and in the log."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from blockyard_server.domain.policy import EVERYTHING, PERMISSIONS, Role
from blockyard_server.rpc.auth import file_authenticator
from blockyard_server.rpc.auth.auth_file import AuthFileRefused
from blockyard_server.rpc.auth.authenticator import Unauthenticated
from blockyard_server.rpc.auth.file_authenticator import FileAuthenticator
from blockyard_server.rpc.auth.principal import ANONYMOUS, Principal
from blockyard_server.rpc.auth.tokens import new_token
from tests.auth.issuer import AUDIENCE, jwks, key_for, public_jwk, signed
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
    failed_times,
    followed,
    knows,
    login,
    principal,
    refusal,
    tokens,
)
from tests.harness.patience import eventually


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is looked at more often than a server does, so that the tests need not wait."""
    monkeypatch.setattr(file_authenticator, "POLL_S", 0.01)
    monkeypatch.setattr(file_authenticator, "SETTLE_S", 0.001)


async def test_a_new_file_counts_at_once_and_tells_a_revoked_token_from_an_unknown_one(world: World) -> None:
    of = world.open(principal(tokens(FIRST.toml()) + VIEWER))
    before = login(of, FIRST.secret)

    world.write(principal(tokens(SECOND.toml()) + VIEWER))
    assert await of.reload_now()
    assert login(of, SECOND.secret).id == "sched-a"
    assert refusal(of, bearer(FIRST.secret)) == ("token", "revoked", f"token:{FIRST.id}")
    assert refusal(of, bearer(OTHER.secret)) == ("token", "unknown", "")
    assert not of.is_still_valid(before)
    world.write(principal(tokens(FIRST.toml()) + VIEWER))
    assert await of.reload_now()
    assert login(of, FIRST.secret).id == "sched-a"
    assert of.is_still_valid(before)


async def test_revoked_tokens_are_remembered_up_to_a_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_authenticator, "MAX_REVOKED", 2)
    made = [new_token() for _ in range(5)]
    of = world.open(principal(tokens(*(token.toml() for token in made)) + VIEWER))
    world.write(principal(tokens(FIRST.toml()) + VIEWER))
    assert await of.reload_now()

    hints = [refusal(of, bearer(token.secret))[1] for token in made]
    assert sorted(hints) == ["revoked"] * 2 + ["unknown"] * 3


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
    assert not of.is_still_valid(found)


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
    assert [of.is_still_valid(each) for each in found] == [True] * 3
    assert login(of, FIRST.secret).weight == 5


async def test_a_long_call_by_certificate_ends_with_its_name(world: World) -> None:
    of = world.open(principal('x509 = ["spiffe://corp.example/ns/train/sa/*"]\n' + VIEWER))
    found = of.authenticate((), PEER)

    world.write(
        principal('x509 = ["spiffe://corp.example/ns/train/sa/*"]\n' + VIEWER)
        + principal('x509 = ["spiffe://corp.example/ns/train/sa/sched*"]\n' + VIEWER, "sched-b")
    )
    assert await of.reload_now()
    assert not of.is_still_valid(found)  # it would be one of two
    world.write(principal('x509 = ["spiffe://corp.example/ns/prod/sa/*"]\n' + VIEWER))
    assert await of.reload_now()
    assert not of.is_still_valid(found)


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
        assert of.is_still_valid(found)
        world.write(*parts)
        assert await of.reload_now()
        assert not of.is_still_valid(found)


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
        assert of.is_still_valid(found)
        world.write(*parts)
        assert await of.reload_now()
        assert not of.is_still_valid(found)


async def test_a_key_that_its_issuer_takes_back_ends_its_jwts_also_cached_ones(world: World) -> None:
    of = world.open(world.issuer, MAP)
    token = signed()
    found = login(of, token)

    world.jwks.write_bytes(jwks(public_jwk(key_for("ES256", 1), "k2")))
    assert await of.keys["k8s"].refresh()
    assert not of.is_still_valid(found)
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
    assert not of.is_still_valid(ANONYMOUS)
    found = login(of, FIRST.secret)
    assert not of.is_still_valid(Principal(found.id, found.tenant, found.via, found.policy))


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
    assert of.is_still_valid(found)
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
            await eventually(knows(of, token.secret), "the new file counted")
        world.write("broken")
        await eventually(failed_times(of, 1), "the broken file was seen")
        assert login(of, OTHER.secret).id == "sched-a"
        world.write(principal(tokens(FIRST.toml()) + VIEWER))
        await eventually(knows(of, FIRST.secret), "the next good file counted")


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
        await eventually(knows(of, SECOND.secret), "the new link was seen")


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
        await eventually(knows(of, signed()), "the issuer was known")
        keys = of.keys["k8s"]
        assert keys._task is not None
        world.write(principal(tokens(FIRST.toml()) + VIEWER))
        await eventually(knows(of, FIRST.secret), "the issuer was gone")

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
            await eventually(failed_times(of, 2), "the fault was met")
            patch.undo()
            monkeypatch.setattr(file_authenticator, "POLL_S", 0.01)
            await eventually(knows(of, SECOND.secret), "the file counted afterwards")
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
    assert "login_refused" in text
    for secret in (FIRST.secret, SECOND.secret, OTHER.secret, *jwt_.split(".")[1:]):
        assert secret[14:] not in text


async def _faulty(_self: FileAuthenticator) -> bool:
    raise ZeroDivisionError


def test_a_server_without_pyjwt_refuses_an_issuer_and_serves_tokens(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("jwt", "jwks"):
        monkeypatch.delitem(sys.modules, f"blockyard_server.rpc.auth.{name}")
    monkeypatch.setitem(sys.modules, "jwt", None)

    assert login(world.open(principal(tokens(FIRST.toml()) + VIEWER)), FIRST.secret).id == "sched-a"
    with pytest.raises(AuthFileRefused, match=r"not installed \(jwt\): pip install 'blockyard\[jwt\]'"):
        world.open(world.issuer)


async def test_a_pipe_in_the_place_of_the_file_is_refused_and_the_file_is_followed_on(world: World) -> None:
    """To open a pipe waits for its writer: nobody would see any more that a token is revoked."""
    of = world.open(principal(tokens(FIRST.toml()) + VIEWER))
    async with followed(of):
        world.path.unlink()
        os.mkfifo(world.path)
        async with asyncio.timeout(30):
            assert not await of.reload_now()
        assert of.status.problems == ("the file cannot be read: it is no regular file",)
        assert login(of, FIRST.secret).id == "sched-a"
        world.path.unlink()
        world.write(principal(tokens(SECOND.toml()) + VIEWER))

        await eventually(knows(of, SECOND.secret), "the good file is taken")
    assert refusal(of, bearer(FIRST.secret))[:2] == ("token", "revoked")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_and_leaves_no_descriptor_open(world: World, make: Callable[[Path], None]) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    make(world.path)
    before = descriptors()
    with pytest.raises(AuthFileRefused, match="it is no regular file"):
        FileAuthenticator(world.path)

    assert descriptors() == before
