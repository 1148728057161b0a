"""TLS of a client, beside real servers with certificates of an authority of our own."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import serialization

from blockyard import AsyncClient, Client, Tls, Unavailable, _channels
from tests.sdk.certificates import HERE, Authority
from tests.sdk.fake_server import FakeServer, Held, serving
from tests.sdk.samples import READ, answer_reads
from tests.sdk.test_watch import answer
from tests.sdk.two_clients import Connect

Start = Callable[..., FakeServer]


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def start(ours: Authority) -> Iterator[Start]:
    """Starts servers with TLS: (*names, **options of `Authority.server`)."""
    with ExitStack() as stack:

        def started(*names: str, clients: Authority | None = None, expired: bool = False) -> FakeServer:
            fake = FakeServer()
            answer_reads(fake)
            credentials = ours.server(*names, clients=clients, expired=expired)
            return stack.enter_context(serving(fake, f"{HERE}:0", credentials))

        yield started


def test_a_server_that_the_authority_vouches_for_is_answered(start: Start, ours: Authority, connect: Connect) -> None:
    fake = start()
    with connect(fake.target, tls=Tls(ca=ours.file), token="t") as steps:
        steps.call(READ)

    assert [seen.metadata["authorization"] for seen in fake.seen] == ["Bearer t"]


@pytest.mark.parametrize("fault", ["another authority", "public authorities", "another name", "expired"])
def test_nothing_is_sent_to_a_server_that_is_not_known(
    start: Start, ours: Authority, connect: Connect, tmp_path: Path, fault: str
) -> None:
    fake = start("blockyard.example") if fault == "another name" else start(expired=fault == "expired")
    ca = {"another authority": Authority(tmp_path).file, "public authorities": None}.get(fault, ours.file)
    with connect(fake.target, tls=Tls(ca=ca), token="t", timeout_s=1) as steps, pytest.raises(Unavailable):
        steps.call(READ)

    assert fake.seen == []


def test_the_name_that_is_checked_may_be_given(start: Start, ours: Authority, connect: Connect) -> None:
    fake = start("blockyard.example")
    with connect(fake.target, tls=Tls(ca=ours.file, server_name="blockyard.example")) as steps:
        steps.call(READ)

    assert len(fake.seen) == 1


def test_plain_text_and_tls_do_not_meet(start: Start, ours: Authority, fake: FakeServer, connect: Connect) -> None:
    encrypted = start()
    with connect(encrypted.target, timeout_s=1) as steps, pytest.raises(Unavailable):
        steps.call(READ)
    with connect(fake.target, tls=Tls(ca=ours.file), timeout_s=1) as steps, pytest.raises(Unavailable):
        steps.call(READ)


def test_servers_of_a_list_are_checked_against_the_name_of_the_first(
    start: Start, ours: Authority, connect: Connect
) -> None:
    """Even when it is down: so all of them carry that name, or `server_name` says another one that they share."""
    two = [start("localhost"), start("localhost")]
    ports = [fake.target.rpartition(":")[2] for fake in two]
    first_is_localhost = f"localhost:{ports[0]},{HERE}:{ports[1]}"
    first_is_a_number = f"{HERE}:{ports[0]},localhost:{ports[1]}"
    tls = Tls(ca=ours.file)
    with connect(first_is_localhost, tls=tls) as steps:
        while not all(fake.seen for fake in two):
            steps.call(READ)
    with connect(first_is_a_number, tls=tls, timeout_s=1) as steps, pytest.raises(Unavailable):
        steps.call(READ)
    with connect(first_is_a_number, tls=Tls(ca=ours.file, server_name="localhost")) as steps:
        steps.call(READ)


def test_a_list_of_addresses_in_grpcs_own_form_needs_the_name(start: Start, ours: Authority, connect: Connect) -> None:
    two = [start("blockyard.example"), start("blockyard.example")]
    target = "ipv4:" + ",".join(fake.target for fake in two)
    with connect(target, tls=Tls(ca=ours.file, server_name="blockyard.example")) as steps:
        steps.call(READ)


def test_a_unix_socket_with_tls_needs_the_name(ours: Authority, connect: Connect, tmp_path: Path) -> None:
    fake = FakeServer()
    answer_reads(fake)
    with (
        serving(fake, f"unix:{tmp_path}/b.sock", ours.server("blockyard.example")),
        connect(fake.target, tls=Tls(ca=ours.file, server_name="blockyard.example")) as steps,
    ):
        steps.call(READ)


def test_a_client_certificate_says_who_calls(start: Start, ours: Authority, connect: Connect) -> None:
    fake = start(clients=ours)
    with connect(fake.target, tls=ours.client("sched.example")) as steps:
        steps.call(READ)
    with connect(fake.target, tls=Tls(ca=ours.file), timeout_s=1) as steps, pytest.raises(Unavailable):
        steps.call(READ)

    assert [seen.certificate for seen in fake.seen] == [{"sched.example"}]


@pytest.fixture
def a_minute_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_channels, "LOOK_S", 0.0)


def names(fake: FakeServer) -> list[set[str]]:
    return [set(seen.certificate) for seen in fake.seen]


def test_new_certificates_are_not_looked_for_at_every_call(start: Start, ours: Authority, connect: Connect) -> None:
    fake = start(clients=ours)
    with connect(fake.target, tls=ours.client("old")) as steps:
        steps.call(READ)
        ours.client("new")
        steps.call(READ)

    assert names(fake) == [{"old"}] * 2


@pytest.mark.usefixtures("a_minute_is_over")
def test_calls_under_way_end_on_the_old_certificate_and_new_ones_begin_with_the_new(
    start: Start, ours: Authority, connect: Connect
) -> None:
    fake = start(clients=ours)
    held = Held()
    fake.disturb("GetAllocation", held)
    with connect(fake.target, tls=ours.client("old")) as steps, ThreadPoolExecutor() as threads:
        under_way = threads.submit(steps.call, READ)
        fake.wait_for("GetAllocation")
        ours.client("new")
        steps.call(READ)
        assert not under_way.done()
        held.until.set()
        under_way.result()
        steps.call(READ)

    assert names(fake) == [{"old"}, {"new"}, {"new"}]


@pytest.mark.usefixtures("a_minute_is_over")
def test_a_watch_goes_on_with_the_new_certificate(start: Start, ours: Authority, connect: Connect) -> None:
    fake = start(clients=ours)
    fake.streams("Watch", [answer(2), answer(3, 3)], [answer(3), answer(4, 4)])
    with connect(fake.target, tls=ours.client("old")) as steps, steps.updates("gpu") as updates:
        seen = [next(updates).revision for _ in range(2)]
        ours.client("new")
        steps.call(READ)
        seen += [next(updates).revision for _ in range(2)]

    assert seen == [2, 3, 3, 4]
    assert [(each.method, set(each.certificate)) for each in fake.seen] == [
        ("Watch", {"old"}),
        ("GetAllocation", {"new"}),
        ("Watch", {"new"}),
    ]


@pytest.mark.usefixtures("a_minute_is_over")
def test_files_that_are_of_no_use_leave_the_old_ones(
    start: Start, ours: Authority, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    fake = start(clients=ours)
    tls = ours.client("old")
    assert tls.key is not None
    with connect(fake.target, tls=tls) as steps:
        steps.call(READ)
        key = Path(tls.key).read_bytes()
        ours.client("new")
        Path(tls.key).write_bytes(key)  # half of the new pair
        steps.call(READ)
        assert "are of no use" in caplog.text
        ours.client("newest")
        steps.call(READ)

    assert names(fake) == [{"old"}, {"old"}, {"newest"}]


def test_a_failed_connection_is_a_reason_to_look(
    start: Start, ours: Authority, connect: Connect, tmp_path: Path
) -> None:
    """The authority was replaced: clients that have its new certificate need no restart, and do not wait a minute."""
    theirs = Authority(tmp_path / "theirs")
    theirs.folder.mkdir()
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(theirs.file.read_bytes())
    fake = start()
    with connect(fake.target, tls=Tls(ca=trusted), timeout_s=1) as steps:
        with pytest.raises(Unavailable):
            steps.call(READ)
        trusted.write_bytes(ours.file.read_bytes())
        steps.call(READ)

    assert len(fake.seen) == 1


def test_many_changes_leave_few_channels(start: Start, ours: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_channels, "LOOK_S", 0.0)
    fake = start(clients=ours)
    held = [Held() for _ in range(_channels.MAX_RETIRED + 3)]
    fake.disturb("GetAllocation", *held)
    with (
        Client(fake.target, tls=ours.client("0"), timeout_s=60) as client,
        ThreadPoolExecutor(len(held)) as threads,
    ):
        under_way = []
        for number in range(len(held)):
            under_way.append(threads.submit(client.call, READ))
            fake.wait_for("GetAllocation", number + 1)
            ours.client(str(number + 1))
        assert len(client._channels.all()) <= _channels.MAX_RETIRED + 1
        for each in held:
            each.until.set()
        for call in under_way:
            call.result()  # those that were dropped were made again
        client.call(READ)
        assert len(client._channels.all()) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cert": "c.pem"}, "cert is given without key"),
        ({"key": "k.pem"}, "key is given without cert"),
        ({"ca": ""}, "ca is empty"),
        ({"server_name": ""}, "server_name is empty"),
    ],
)
def test_half_of_what_is_needed_is_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tls(**given)


def test_files_that_are_not_what_they_should_be_are_said_when_the_client_is_made(
    ours: Authority, tmp_path: Path
) -> None:
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("no certificate")
    good = ours.client("a")
    other = Authority(tmp_path / "other")
    other.folder.mkdir()
    for kind in (Client, AsyncClient):
        with pytest.raises(FileNotFoundError, match=r"missing\.pem"):
            kind("127.0.0.1:1", tls=Tls(ca=tmp_path / "missing.pem"))
        with pytest.raises(ValueError, match=r"rubbish\.pem: no certificate"):
            kind("127.0.0.1:1", tls=Tls(ca=rubbish))
        with pytest.raises(ValueError, match=r"client\.pem and .*client\.key: not a certificate in PEM and its key"):
            kind("127.0.0.1:1", tls=Tls(cert=good.cert, key=other.client("b").key))
        with pytest.raises(ValueError, match="exclude each other"):
            kind("127.0.0.1:1", tls=Tls(), credentials=grpc.ssl_channel_credentials())


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(ours: Authority, tmp_path: Path) -> None:
    good = ours.client("a")
    assert good.key is not None
    key = serialization.load_pem_private_key(Path(good.key).read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    with pytest.raises(ValueError, match="encrypted"):
        Client("127.0.0.1:1", tls=Tls(cert=good.cert, key=locked))
