"""Certificate authorities of a test, the files that a server reads, and channels that trust them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import trustme

HOST = "localhost"
"""The name that the server's certificates are for."""


@dataclass(frozen=True)
class ServerFiles:
    """What is given to a server."""

    certificate: Path
    key: Path
    client_ca: Path

    def settings(self, **more: Any) -> dict[str, Any]:
        """The settings of the certificate, and more."""
        return {"tls_cert": self.certificate, "tls_key": self.key, **more}


class Authorities:
    """One that servers belong to, one that clients do, and files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.servers = trustme.CA(organization_name="servers")
        self.clients = trustme.CA(organization_name="clients")
        self.files = ServerFiles(folder / "server.pem", folder / "server-key.pem", folder / "clients-ca.pem")
        self.files.client_ca.write_bytes(self.clients.cert_pem.bytes())
        self.renew()

    def renew(self, **properties: Any) -> trustme.LeafCert:
        """Puts a new certificate and its key in the place of the ones before, each at once."""
        leaf = self.servers.issue_cert(HOST, "127.0.0.1", **properties)
        replace(self.files.certificate, b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        replace(self.files.key, leaf.private_key_pem.bytes())
        return leaf

    def trust(self, client: trustme.LeafCert | None = None) -> grpc.ChannelCredentials:
        """Of a client that trusts the servers, with a certificate or without."""
        if client is None:
            return grpc.ssl_channel_credentials(self.servers.cert_pem.bytes())
        chain = b"".join(blob.bytes() for blob in client.cert_chain_pems)
        return grpc.ssl_channel_credentials(self.servers.cert_pem.bytes(), client.private_key_pem.bytes(), chain)

    def channel(self, address: str, client: trustme.LeafCert | None = None) -> grpc.aio.Channel:
        """A connection of its own to a server on 127.0.0.1."""
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", HOST))
        return grpc.aio.secure_channel(address, self.trust(client), options=options)


def replace(path: Path, data: bytes) -> None:
    """As a careful program does it: whoever reads sees the old content or the new."""
    written = path.with_suffix(".new")
    written.write_bytes(data)
    written.chmod(0o600)
    os.replace(written, path)  # noqa: PTH105 - says what it is
