"""The authenticator behind a real server: what gRPC hands over of headers and certificates, and what comes of it."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509

from blockyard.v1 import access_pb2
from blockyard_server.rpc.auth import file_authenticator
from tests.auth.issuer import make_client, signed
from tests.auth.world import FIRST, MAP, OTHER, SECOND, SPIFFE, VIEWER, World, principal, tokens
from tests.harness.patience import eventually
from tests.rpc.wire import Blockyard, refusal_of
from tests.tls.authorities import HOST, Authorities
from tests.tls.servers import PORT, serving, who_am_i


@asynccontextmanager
async def asking(world: World, *parts: str) -> AsyncIterator[grpc.aio.Channel]:
    """A server with this auth file, in plaintext on loopback, and a connection to it."""
    world.write(*parts)
    async with (
        serving(world.path.parent, auth_file=world.path) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        yield channel


async def asked(channel: grpc.aio.Channel, *headers: Any) -> Any:
    """How the server refuses a call with these headers."""
    return await refusal_of(Blockyard(channel, headers).access.WhoAmI(access_pb2.WhoAmIRequest()))


async def test_a_token_and_a_jwt_are_known_and_everybody_else_is_not(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = time.time()
    async with asking(world, principal(tokens(FIRST.toml()) + VIEWER), world.issuer, MAP) as channel:
        assert await who_am_i(channel, FIRST.secret) == ("sched-a", "train", f"token:{FIRST.id}")
        assert await who_am_i(channel, signed(exp=now_s + 60, nbf=now_s, iat=now_s)) == (
            "scheduler",
            "train",
            "jwt:k8s",
        )
        good = f"Bearer {FIRST.secret}"
        refused = [
            await asked(channel, *headers)
            for headers in (
                (),
                (("authorization", f"Bearer {OTHER.secret}"),),
                (("authorization", good), ("authorization", good)),
                (("authorization", good), ("authorization", "")),
                (("authorization", f"Basic {FIRST.secret}"),),
                (("authorization-bin", good.encode()),),
                (("authorization", f"Bearer {signed(exp=now_s - 60, nbf=None, iat=None)}"),),
            )
        ]

    assert {each.reason for each in refused} == {"UNAUTHENTICATED"}
    lines = [json.loads(record.message) for record in caplog.records if "login_refused" in record.message]
    assert [(line["scheme"], line["hint"]) for line in lines] == [
        ("none", "missing"),
        ("token", "unknown"),
        ("bearer", "given_twice"),
        ("bearer", "not_bearer"),
        ("jwt", "expired"),
    ]
    assert {line["peer"] for line in lines} == {"127.0.0.1"}


async def test_a_certificate_is_known_by_its_spiffe_id_and_a_bad_token_beside_it_is_refused(
    world: World, tmp_path: Path
) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    servers = Authorities(folder)
    world.write(
        principal(f'x509 = ["{SPIFFE}"]\n' + VIEWER), principal('x509 = ["host-1.example"]\n' + VIEWER, "host", "other")
    )
    names: dict[str, list[x509.GeneralName]] = {
        "spiffe": [x509.UniformResourceIdentifier(SPIFFE), x509.DNSName("host-1.example")],
        "dns": [x509.DNSName("host-1.example"), x509.DNSName("host-1")],
        "two": [x509.UniformResourceIdentifier(SPIFFE), x509.UniformResourceIdentifier(f"{SPIFFE}-2")],
        "unknown": [x509.DNSName("host-2.example")],
    }
    found: dict[str, Any] = {}
    for name, of in names.items():
        clients = tmp_path / name
        clients.mkdir()
        ca, certificate, key = make_client(clients, *of)
        trust = grpc.ssl_channel_credentials(servers.servers.cert_pem.bytes(), key, certificate)
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", HOST))
        settings = servers.files.settings(mtls_listen=PORT, tls_client_ca=ca, auth_file=world.path)
        async with (
            serving(clients, **settings) as running,
            grpc.aio.secure_channel(running.addresses[1], trust, options=options) as channel,
        ):
            known = name in {"spiffe", "dns"}
            found[name] = await who_am_i(channel) if known else (await asked(channel)).metadata["scheme"]
            refused = await asked(channel, ("authorization", f"Bearer {OTHER.secret}"))
            assert refused.metadata["scheme"] == "bearer"

    assert found == {
        "spiffe": ("sched-a", "train", SPIFFE),
        "dns": ("host", "other", "dns:host-1.example"),
        "two": "certificate",
        "unknown": "certificate",
    }


async def test_a_new_file_counts_without_a_restart(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_authenticator, "POLL_S", 0.01)
    async with asking(world, principal(tokens(FIRST.toml(), SECOND.toml()) + VIEWER)) as channel:
        assert await who_am_i(channel, FIRST.secret) == ("sched-a", "train", f"token:{FIRST.id}")
        world.write(principal(tokens(SECOND.toml()) + VIEWER))

        async def revoked() -> bool:
            try:
                await who_am_i(channel, FIRST.secret)
            except grpc.aio.AioRpcError as error:
                return error.code() is grpc.StatusCode.UNAUTHENTICATED
            return False

        await eventually(revoked, "the token was refused")
        assert await who_am_i(channel, SECOND.secret) == ("sched-a", "train", f"token:{SECOND.id}")
