"""What a client says besides the request goes where it may be read: tokens over TLS or not off the machine."""

import socket
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.experimental
import pytest

from blockyard import AsyncClient, Client, Tls, credentials_from_environment
from blockyard._target import is_on_this_machine
from tests.sdk.fake_server import FakeServer
from tests.sdk.samples import READ, answer_reads
from tests.sdk.test_watch import answer
from tests.sdk.two_clients import Connect

PLAIN_TEXT: grpc.ChannelCredentials = grpc.experimental.insecure_channel_credentials()  # type: ignore[no-untyped-call]  # grpc's


@pytest.mark.parametrize(
    "target",
    [
        "127.0.0.1:7350",
        "127.8.9.10:1",
        "[::1]:7350",
        "localhost:7350",
        "LOCALHOST:1",
        "dns:///localhost:7350",
        "dns:127.0.0.1:7350",
        "ipv4:127.0.0.1:1,127.0.0.2:1",
        "ipv6:[::ffff:127.0.0.1]:1,[::1]:2",
        "unix:/run/b.sock",
        "unix-abstract:b",
    ],
)
def test_what_does_not_leave_the_machine(target: str) -> None:
    assert is_on_this_machine(target)


@pytest.mark.parametrize(
    "target",
    [
        "10.0.0.1:7350",
        "0.0.0.0:7350",
        "blockyard.example:7350",
        "localhost.example:7350",
        "127.0.0.1.example:7350",
        "ipv4:127.0.0.1:1,10.0.0.1:1",
        "ipv6:[::ffff:10.0.0.1]:1",
        "dns://10.0.0.1/localhost:7350",
        "vsock:1:2",
        "xds:///localhost:1",
        "http://localhost:1",
        "localhost",
        "user@localhost:1",
        "",
    ],
)
def test_what_may_leave_it(target: str) -> None:
    assert not is_on_this_machine(target)


@pytest.mark.parametrize("target", ["10.0.0.1:7350", "127.0.0.1:1,10.0.0.1:1", "dns:///blockyard.example:7350"])
@pytest.mark.parametrize(
    "given", [{"token": "s3cret"}, {"token": lambda: "s3cret"}, {"metadata": {"authorization": "Basic s3cret"}}]
)
def test_a_secret_does_not_go_over_a_network_in_plain_text(
    target: str, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match=r"plain text.*give tls=Tls\(\).*BLOCKYARD_INSECURE_TOKEN=1") as e:
            kind(target, **given)
        assert "s3cret" not in str(e.value)
        kind(target, tls=Tls(), **given)
        kind(target, credentials=grpc.ssl_channel_credentials(), **given)
        with pytest.raises(ValueError, match="plain text"):
            kind(target, credentials=PLAIN_TEXT, **given)

    monkeypatch.setenv("BLOCKYARD_INSECURE_TOKEN", "1")
    Client(target, **given).close()
    monkeypatch.setenv("BLOCKYARD_INSECURE_TOKEN", "yes")
    with pytest.raises(ValueError, match="plain text"):
        Client(target, **given)


def test_without_a_secret_everything_goes_on_as_ever() -> None:
    Client("10.0.0.1:7350", metadata={"x-request-id": "a"}).close()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A proxy that the environment names."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{listener.getsockname()[1]}")
        for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield listener


def test_a_token_for_this_machine_does_not_leave_it_by_way_of_a_proxy(
    fake: FakeServer, connect: Connect, proxy: socket.socket
) -> None:
    fake.tokens = {"old"}
    answer_reads(fake)
    with connect(fake.target, token="old") as steps:
        steps.call(READ)

    with pytest.raises(BlockingIOError):
        proxy.accept()


def test_extra_metadata_is_sent_with_calls_and_watches(fake: FakeServer, connect: Connect) -> None:
    answer_reads(fake)
    fake.streams("Watch", [answer(2)])
    extra = {"x-team": "vision", "x-trace-bin": b"\x00\xff"}
    with connect(fake.target, metadata=extra, caller="sched", token="t") as steps:
        steps.call(READ)
        with steps.updates("gpu") as updates:
            next(updates)

    assert [seen.method for seen in fake.seen] == ["GetAllocation", "Watch"]
    for seen in fake.seen:
        assert extra.items() <= seen.metadata.items()
        assert seen.metadata["blockyard-caller"] == "sched"
        assert seen.metadata["authorization"] == "Bearer t"


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ({"X-Team": "a"}, ValueError),
        ({"": "a"}, ValueError),
        ({"x team": "a"}, ValueError),
        ({"grpc-timeout": "1S"}, ValueError),
        ({"blockyard-caller": "a"}, ValueError),
        ({"x": "a\nb"}, ValueError),
        ({"x": "ä"}, ValueError),
        ({"x": "a" * 9000}, ValueError),
        ({"x": b"a"}, TypeError),
        ({"x-bin": "a"}, TypeError),
        ({"x": None}, TypeError),
        ({"authorization": "Bearer b"}, ValueError),
    ],
)
def test_metadata_that_cannot_be_sent_is_refused(metadata: Any, error: type[Exception]) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(error, match="metadata"):
            kind("127.0.0.1:1", metadata=metadata, token="t")


def test_interceptors_are_around_every_attempt(fake: FakeServer) -> None:
    class Noting(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
        def __init__(self) -> None:
            self.methods: list[Any] = []

        def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            self.methods.append(client_call_details.method)
            return continuation(client_call_details, request)

        def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            self.methods.append(client_call_details.method)
            return continuation(client_call_details, request)

    noting = Noting()
    fake.tokens = {"good"}
    answer_reads(fake)
    fake.streams("Watch", [answer(2)])
    tokens = iter(["bad", "good"])
    with Client(fake.target, token=lambda: next(tokens), interceptors=[noting]) as client, client.watch("gpu") as watch:
        client.call(READ)
        next(watch.updates())

    read, follow = "/blockyard.v1.Allocator/GetAllocation", "/blockyard.v1.Allocator/Watch"
    assert noting.methods == [read, read, follow]


async def test_interceptors_are_around_every_attempt_in_asyncio(fake: FakeServer) -> None:
    methods: list[Any] = []

    class Calls(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            methods.append(client_call_details.method)
            return await continuation(client_call_details, request)

    class Streams(grpc.aio.UnaryStreamClientInterceptor):
        async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            methods.append(client_call_details.method)
            return await continuation(client_call_details, request)

    fake.tokens = {"good"}
    answer_reads(fake)
    fake.streams("Watch", [answer(2)])
    tokens = iter(["bad", "good"])
    async with (
        AsyncClient(fake.target, token=lambda: next(tokens), interceptors=[Calls(), Streams()]) as client,
        client.watch("gpu") as watch,
    ):
        await client.call(READ)
        await anext(watch.updates())

    names = [method.decode().rpartition("/")[2] for method in methods]
    assert names == ["GetAllocation", "GetAllocation", "Watch"]


@pytest.mark.parametrize(
    ("variables", "arguments"),
    [
        ({}, {}),
        ({"BLOCKYARD_TOKEN": "", "BLOCKYARD_TLS": "", "BLOCKYARD_CA": ""}, {}),
        ({"BLOCKYARD_TOKEN": "t"}, {"token": "t"}),
        ({"BLOCKYARD_TOKEN_FILE": "/t"}, {"token_file": "/t"}),
        ({"BLOCKYARD_TLS": "1"}, {"tls": Tls()}),
        ({"BLOCKYARD_TLS": "false"}, {}),
        ({"BLOCKYARD_CA": "/ca"}, {"tls": Tls(ca="/ca")}),
        ({"BLOCKYARD_SERVER_NAME": "b"}, {"tls": Tls(server_name="b")}),
        ({"BLOCKYARD_CERT": "/c", "BLOCKYARD_KEY": "/k"}, {"tls": Tls(cert="/c", key="/k")}),
    ],
)
def test_the_environment_names_credentials(variables: dict[str, str], arguments: dict[str, Any]) -> None:
    assert credentials_from_environment(variables) == arguments


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"BLOCKYARD_TOKEN": "s3cret", "BLOCKYARD_TOKEN_FILE": "/t"}, "both set"),
        ({"BLOCKYARD_TLS": "yes"}, "write 1 or 0"),
        ({"BLOCKYARD_TLS": "0", "BLOCKYARD_CA": "/ca"}, "switched off"),
        ({"BLOCKYARD_CERT": "/c"}, "without key"),
    ],
)
def test_variables_that_contradict_each_other_are_refused(variables: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as e:
        credentials_from_environment(variables)
    assert "s3cret" not in str(e.value)


def test_what_the_environment_names_makes_a_client(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.tokens = {"old"}
    answer_reads(fake)
    monkeypatch.setenv("BLOCKYARD_TOKEN", "old")
    with Client(fake.target, **credentials_from_environment()) as client:
        client.call(READ)
