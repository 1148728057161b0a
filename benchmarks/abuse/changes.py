"""What clients see of an auth file and of keys that change: soon, and no call of anybody else fails."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time
from typing import Any, Final

import grpc
import grpc.aio

from benchmarks.abuse.principals import FLEET, AskingServer, asking_server
from benchmarks.stress.scenario import Figure, Scale, Scenario
from blockyard.v1 import access_pb2, access_pb2_grpc, allocator_pb2_grpc
from blockyard.v1 import allocator_pb2 as pb
from blockyard_server.rpc.auth.tokens import NewToken, new_token
from tests.auth.issuer import AUDIENCE, ISS, jwks, key_for, public_jwk, signed
from tests.tls.authorities import replace

HONEST_CALLS: Final = 4
"""Calls of the honest scheduler that are always under way."""
SEEN_S: Final = 5.0
STREAM_ENDED_S: Final = 30.0
PAUSE_S: Final = 0.02
REFUSED: Final = "the auth file is refused"


def run(scale: Scale) -> Sequence[Figure]:
    """Tokens that come and go, keys that are replaced, and a file that is broken."""
    with asking_server(scale.folder) as server:
        return asyncio.run(_changes(server, Files(scale.folder), scale.of(5, 1)))


class Files:
    """The auth file with an issuer added, and the issuer's keys; each change is one rename."""

    def __init__(self, folder: Path) -> None:
        self._auth_file = folder / "auth.toml"
        self._jwks = folder / "jwks.json"
        self.publish(0)
        self._start = self._auth_file.read_text() + (
            f'[[issuer]]\nname = "k8s"\niss = "{ISS}"\naudience = "{AUDIENCE}"\njwks = "{self._jwks.as_uri()}"\n'
            'map = { tenant = "kubernetes.io/namespace", grant = [{ role = "viewer", fleets = ["*"] }] }\n'
        )

    def write(self, *tokens: NewToken, broken: str = "") -> None:
        """An auth file with a viewer for each of these tokens."""
        viewers = [
            f'[[principal]]\nid = "viewer-{n}"\ntokens = [{token.toml()}]\n'
            'grant = [{ role = "viewer", fleets = ["*"] }]\n'
            for n, token in enumerate(tokens)
        ]
        replace(self._auth_file, (self._start + "".join(viewers) + broken).encode())
        self._auth_file.chmod(0o600)

    def publish(self, number: int) -> None:
        """The issuer signs with this key from now on."""
        replace(self._jwks, jwks(public_jwk(key_for("ES256", number), f"k{number}")))

    def jwt(self, number: int) -> str:
        """A token that the issuer has just signed."""
        now_s = time()
        return signed(key_id=f"k{number}", key=key_for("ES256", number), iat=now_s, nbf=now_s - 10, exp=now_s + 3600)


@dataclass
class Honest:
    """What somebody saw whose credentials never changed."""

    calls: int = 0
    failed: int = 0
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)


async def _changes(server: AskingServer, files: Files, times: int) -> list[Figure]:
    async with grpc.aio.insecure_channel(server.process.address) as channel, _honest(server, channel) as honest:
        access: Any = access_pb2_grpc.AccessStub(channel)

        async def is_known(credential: str) -> bool:
            try:
                await access.WhoAmI(access_pb2.WhoAmIRequest(), metadata=_bearer(credential), timeout=30)
            except grpc.aio.AioRpcError as refused:
                if refused.code() is not grpc.StatusCode.UNAUTHENTICATED:
                    raise
                return False
            return True

        added, revoked, ended, keys = [], [], [], []
        for turn in range(times):
            token = new_token()
            files.write(token)
            added.append(await _seconds_until(is_known, token.secret))
            stream = asyncio.create_task(_seconds_until_expired(channel, token))
            await asyncio.sleep(0.5)
            files.write()
            revoked.append(await _seconds_until(is_known, token.secret, known=False))
            ended.append(await stream)
            files.publish(turn + 1)
            keys.append(await _seconds_until(is_known, files.jwt(turn + 1)))
        last = new_token()
        files.write(last)
        await _seconds_until(is_known, last.secret)
        files.write(broken="no toml")
        await asyncio.sleep(SEEN_S)
        is_still_known = await is_known(last.secret)
    told = server.process.errors().count(REFUSED)
    return [
        Figure(f"{times} new tokens: each known after", max(added), "s at most", at_most=SEEN_S),
        Figure(f"{times} revoked tokens: each refused after", max(revoked), "s at most", at_most=SEEN_S),
        Figure("  its stream ended after", max(ended), "s at most", at_most=STREAM_ENDED_S),
        Figure(f"{times} new keys of an issuer: each known after", max(keys), "s at most", at_most=SEEN_S),
        Figure("then a broken auth file: tokens that go on", int(is_still_known), "", at_least=1, kind="count"),
        Figure("  it is told in the log", told, "times", at_least=1, at_most=1, kind="count"),
        Figure("calls of an honest scheduler meanwhile", honest.calls, "", at_least=1, kind="count"),
        Figure("  failed", honest.failed, "", at_most=0, kind="count"),
    ]


@asynccontextmanager
async def _honest(server: AskingServer, channel: grpc.aio.Channel) -> AsyncIterator[Honest]:
    """Calls of the honest scheduler, one after the other."""
    honest, ending = Honest(), asyncio.Event()
    stub: Any = allocator_pb2_grpc.AllocatorStub(channel)

    async def go_on() -> None:
        while not ending.is_set():
            try:
                await stub.Describe(
                    pb.DescribeRequest(fleet=f"fleets/{FLEET}", page_size=1), metadata=server.metadata(), timeout=30
                )
            except grpc.aio.AioRpcError:
                honest.failed += 1
            honest.calls += 1
            await asyncio.sleep(PAUSE_S)

    honest.tasks = [asyncio.create_task(go_on()) for _ in range(HONEST_CALLS)]
    try:
        yield honest
    finally:
        ending.set()
        await asyncio.gather(*honest.tasks)


async def _seconds_until_expired(channel: grpc.aio.Channel, token: NewToken) -> float:
    """How long a watch with this token goes on. Raises AioRpcError if it ends for another reason."""
    stub: Any = allocator_pb2_grpc.AllocatorStub(channel)
    began_s = monotonic()
    watch = stub.Watch(pb.WatchRequest(fleet=f"fleets/{FLEET}"), metadata=_bearer(token.secret))
    try:
        async for _ in watch:
            pass
    except grpc.aio.AioRpcError as ended:
        if ended.code() is not grpc.StatusCode.UNAUTHENTICATED:
            raise
    return monotonic() - began_s


async def _seconds_until(is_known: Callable[[str], Awaitable[bool]], credential: str, *, known: bool = True) -> float:
    """How long it takes. Raises TimeoutError after a minute."""
    began_s = monotonic()
    async with asyncio.timeout(60):
        while await is_known(credential) is not known:  # noqa: ASYNC110 - what a client sees comes without an event
            await asyncio.sleep(PAUSE_S)
    return monotonic() - began_s


def _bearer(credential: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {credential}"),)


SCENARIO: Final = Scenario("changes", "tokens and keys that change are seen soon, and disturb nobody", run)
