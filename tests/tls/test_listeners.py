"""Ports with TLS, with client certificates and without either: who gets in where, and what a start refuses."""

import asyncio
import contextlib
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import trustme
from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families

from blockyard import AsyncClient
from blockyard.v1 import fleet_admin_pb2
from blockyard_server.app import StartRefused
from blockyard_server.rpc.listen import is_loopback
from tests.harness.patience import eventually
from tests.rpc.wire import Blockyard
from tests.tls.authorities import Authorities, replace
from tests.tls.servers import PORT, ByName, refused_status, serving, who_am_i


async def presented(address: str) -> x509.Certificate:
    """The certificate that a new connection is shown."""
    host, _, port = address.rpartition(":")
    found = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
    return x509.load_pem_x509_certificate(found.encode())


async def test_with_a_certificate_the_port_speaks_tls_and_nothing_else(
    authorities: Authorities, tmp_path: Path
) -> None:
    async with serving(tmp_path, **authorities.files.settings()) as running:
        async with authorities.channel(running.address) as channel:
            inside = await who_am_i(channel)
        async with grpc.aio.insecure_channel(running.address) as channel:
            in_plaintext = await refused_status(who_am_i(channel))
        foreign = Authorities(tmp_path)
        async with foreign.channel(running.address) as channel:
            by_another_authority = await refused_status(who_am_i(channel))

    assert inside == ("anonymous", "anonymous", "none")
    assert (in_plaintext, by_another_authority) == (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE)


async def test_without_settings_the_port_is_plaintext_on_loopback_and_nobody_is_asked(tmp_path: Path) -> None:
    async with serving(tmp_path) as running, grpc.aio.insecure_channel(running.address) as channel:
        assert await who_am_i(channel) == ("anonymous", "anonymous", "none")
        assert running.addresses == (running.address,)


async def test_only_clients_with_a_certificate_of_the_authority_get_in_and_it_names_them(
    authorities: Authorities, tmp_path: Path
) -> None:
    known = authorities.clients.issue_cert("scheduler.train")
    stranger = trustme.CA().issue_cert("scheduler.train")
    settings = authorities.files.settings(mtls_listen=PORT, tls_client_ca=authorities.files.client_ca)
    async with serving(tmp_path, authenticator=ByName(), **settings) as running:
        port, mtls = running.addresses
        async with authorities.channel(mtls, known) as channel:
            by_certificate = await who_am_i(channel)
            by_token = await who_am_i(channel, "good")
            by_bad_token = await refused_status(who_am_i(channel, "bad"))
        async with authorities.channel(port) as channel:
            at_the_other_port = await who_am_i(channel, "good")
            without_token = await refused_status(who_am_i(channel))
        refused = []
        for client in (None, stranger, authorities.servers.issue_cert("scheduler.train")):
            async with authorities.channel(mtls, client) as channel:
                refused.append(await refused_status(who_am_i(channel, "good")))

    assert by_certificate == ("scheduler.train", "train", "dns:scheduler.train")
    assert by_token == at_the_other_port == ("by-token", "train", "token:good")
    assert by_bad_token is without_token is grpc.StatusCode.UNAUTHENTICATED
    assert refused == [grpc.StatusCode.UNAVAILABLE] * 3, "a token does not replace a certificate here"


async def test_without_tls_said_aloud_the_certificate_is_for_the_port_of_client_certificates_alone(
    authorities: Authorities, tmp_path: Path
) -> None:
    client = authorities.clients.issue_cert("scheduler.train")
    settings = authorities.files.settings(
        mtls_listen=PORT, tls_client_ca=authorities.files.client_ca, insecure_no_tls=True
    )
    async with serving(tmp_path, **settings) as running:
        plain, mtls = running.addresses
        async with grpc.aio.insecure_channel(plain) as channel:
            await who_am_i(channel)
        async with authorities.channel(mtls, client) as channel:
            await who_am_i(channel)


async def test_new_authorities_of_clients_are_taken_without_a_restart(authorities: Authorities, tmp_path: Path) -> None:
    settings = authorities.files.settings(listen="", mtls_listen=PORT, tls_client_ca=authorities.files.client_ca)
    new = trustme.CA()
    client = new.issue_cert("scheduler.train")
    async with serving(tmp_path, **settings) as running:
        async with authorities.channel(running.address, client) as channel:
            before = await refused_status(who_am_i(channel))
        replace(authorities.files.client_ca, new.cert_pem.bytes())

        async def gets_in() -> bool:
            async with authorities.channel(running.address, client) as channel:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    return bool(await who_am_i(channel))
            return False

        await eventually(gets_in, "a client of the new authority gets in")
    assert before is grpc.StatusCode.UNAVAILABLE


class Load:
    """Clients that each call over a new connection, again and again."""

    def __init__(self, authorities: Authorities, address: str) -> None:
        self.calls = 0
        self.failures: list[str] = []
        self._authorities = authorities
        self._address = address

    async def _go_on(self) -> None:
        while True:
            try:
                async with self._authorities.channel(self._address) as channel:
                    await who_am_i(channel)
                self.calls += 1
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{error.code().name}: {error.details()}")

    @contextlib.asynccontextmanager
    async def of(self, clients: int) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._go_on()) for _ in range(clients)]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_new_certificate_is_presented_while_calls_go_on_and_none_fails(
    authorities: Authorities, tmp_path: Path
) -> None:
    async with serving(tmp_path, **authorities.files.settings()) as running:
        load = Load(authorities, running.address)
        async with load.of(4):
            for _ in range(2):
                new = x509.load_pem_x509_certificate(authorities.renew().cert_chain_pems[0].bytes())

                async def is_presented(new: x509.Certificate = new) -> bool:
                    return (await presented(running.address)).serial_number == new.serial_number

                await eventually(is_presented, "the new certificate is presented")
                seen = load.calls

                async def others_go_on(seen: int = seen) -> bool:
                    return load.calls > seen + 4

                await eventually(others_go_on, "calls are made with the new one")
    assert load.failures == []


async def scrape(address: str | None) -> dict[str, float]:
    """The metrics of TLS."""
    reader, writer = await asyncio.open_connection(*(address or "").split(":"))
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    text = (await reader.read()).decode().partition("\r\n\r\n")[2]
    writer.close()
    families = text_string_to_metric_families(text)
    samples = (sample for family in families if "_tls_" in family.name for sample in family.samples)
    return {sample.name: sample.value for sample in samples if not sample.name.endswith("_created")}


async def test_a_broken_certificate_changes_nothing_and_the_metrics_tell(
    authorities: Authorities, tmp_path: Path
) -> None:
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=5)
    authorities.renew(not_after=ends)
    async with serving(tmp_path, ops_listen=PORT, **authorities.files.settings()) as running:
        before = await scrape(running.ops_address)
        shown = await presented(running.address)
        replace(authorities.files.key, b"no key")

        async def is_counted() -> bool:
            return (await scrape(running.ops_address))["blockyard_tls_reload_failures_total"] == 1

        await eventually(is_counted, "the broken key is counted")
        after = await scrape(running.ops_address)
        assert await presented(running.address) == shown
        async with authorities.channel(running.address) as channel:
            await who_am_i(channel)
    not_after = {"blockyard_tls_not_after_seconds": ends.timestamp()}
    assert before == {"blockyard_tls_reload_failures_total": 0, **not_after}
    assert after == {"blockyard_tls_reload_failures_total": 1, **not_after}


NO_AUTH = "would let everybody who reaches this port do everything: give --auth-file, or say --insecure-no-auth"
NO_TLS = "would send everything over the network in plaintext: give --tls-cert and --tls-key, or say --insecure-no-tls"


async def test_a_port_that_strangers_reach_is_refused_unless_the_settings_say_so_aloud(
    authorities: Authorities, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host = "0.0.0.0"  # noqa: S104 - that is what is refused
    listen: dict[str, Any] = {"listen": f"{host}:0"}
    tls = authorities.files.settings()
    mtls = tls | {"listen": "", "mtls_listen": f"{host}:0", "tls_client_ca": authorities.files.client_ca}
    knowing = ByName()

    async def start(authenticator: ByName | None = None, **settings: Any) -> str:
        try:
            async with serving(tmp_path, authenticator=authenticator, **settings):
                return "serves"
        except StartRefused as refused:
            return str(refused)

    at, at_mtls = f"--listen {host}:0", f"--mtls-listen {host}:0"
    assert await start(**listen) == f"{at} {NO_AUTH}; and {at} {NO_TLS}"
    assert await start(**listen, insecure_no_auth=True) == f"{at} {NO_TLS}"
    assert await start(**listen, insecure_no_tls=True) == await start(**listen, **tls) == f"{at} {NO_AUTH}"
    assert await start(knowing, **listen) == f"{at} {NO_TLS}"
    assert await start(**mtls) == f"{at_mtls} {NO_AUTH}"
    assert await start(listen=f"{PORT},{host}:0") == f"{at} {NO_AUTH}; and {at} {NO_TLS}"
    assert not (tmp_path / "blockyard.db").exists(), "nothing was opened"
    assert caplog.text.count("insecure") == 0
    assert await start(knowing, **listen, **tls) == await start(knowing, **mtls) == "serves"
    assert await start(knowing, **listen, insecure_no_tls=True) == "serves"
    assert await start(**listen, insecure_no_auth=True, insecure_no_tls=True) == "serves"
    aloud = [record.getMessage().partition(":")[0] for record in caplog.records if record.levelname == "WARNING"]
    assert aloud == ["--insecure-no-tls", "--insecure-no-auth", "--insecure-no-tls"]


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.8.9.10:1", True),
        ("[::1]:1", True),
        ("[::ffff:127.0.0.1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("[::ffff:10.0.0.1]:1", False),
        ("128.0.0.1:1", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(address: str, loopback: bool) -> None:  # noqa: FBT001 - a table
    assert is_loopback(address) is loopback


def test_a_name_is_loopback_only_if_all_of_its_addresses_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def two(_host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(2, 1, 6, "", ("127.0.0.1", port)), (2, 1, 6, "", ("192.0.2.7", port))]

    monkeypatch.setattr("socket.getaddrinfo", two)
    assert not is_loopback("both.example:7350")


async def test_a_name_without_an_address_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match=r"^cannot listen on nowhere\.invalid:0: "):
        async with serving(tmp_path, listen="nowhere.invalid:0"):
            pass


async def test_a_wrong_certificate_refuses_the_start_with_the_sentence_that_says_why(
    authorities: Authorities, tmp_path: Path
) -> None:
    replace(authorities.files.key, b"no key")
    with pytest.raises(StartRefused, match=r"has no private key in PEM that can be read; give other files with --tls"):
        async with serving(tmp_path, **authorities.files.settings()):
            pass


async def test_an_auth_file_that_nobody_reads_lets_nobody_in(tmp_path: Path) -> None:
    with pytest.raises(StartRefused):
        async with serving(tmp_path, auth_file=tmp_path / "auth.toml"):
            pass


@pytest.mark.slow
def test_a_server_without_tls_spends_nothing_on_it() -> None:
    program = "import sys, blockyard_server.app; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


async def test_all_listeners_offer_the_same_fleets(authorities: Authorities, tmp_path: Path) -> None:
    settings = authorities.files.settings(
        listen=f"{PORT},{PORT}",
        mtls_listen=PORT,
        tls_client_ca=authorities.files.client_ca,
        admin_socket=tmp_path / "admin.sock",
    )
    client = authorities.clients.issue_cert("scheduler.train")
    async with serving(tmp_path, **settings) as running:
        first, second, mtls, admin = running.addresses
        assert len({first, second, mtls}) == 3
        async with AsyncClient(admin) as sdk:
            await sdk.create_fleet("gpu")
        for address, certificate in ((first, None), (second, None), (mtls, client)):
            async with authorities.channel(address, certificate) as channel:
                fleets = await Blockyard(channel).admin.ListFleets(fleet_admin_pb2.ListFleetsRequest())
                assert [fleet.name for fleet in fleets.fleets] == ["fleets/gpu"]
