"""Certificates for the tests: an authority of their own, servers and clients with names that it vouches for."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import grpc
import trustme

from blockyard import Tls

HERE: Final = "127.0.0.1"


@dataclass(frozen=True)
class Authority:
    """Signs certificates, and writes them into a folder."""

    folder: Path
    ca: trustme.CA = field(default_factory=trustme.CA)

    @property
    def file(self) -> Path:
        """What its friends trust."""
        path = self.folder / f"ca-{id(self.ca)}.pem"
        if not path.exists():
            self.ca.cert_pem.write_to_path(path)
        return path

    def server(self, *names: str, clients: "Authority | None" = None, expired: bool = False) -> grpc.ServerCredentials:
        """Of a server of these names. `clients`: only whoever this authority vouches for may connect."""
        issued = self._issue(names or (HERE,), expired=expired)
        pair = (issued.private_key_pem.bytes(), b"".join(each.bytes() for each in issued.cert_chain_pems))
        root = clients.ca.cert_pem.bytes() if clients else None
        return grpc.ssl_server_credentials([pair], root_certificates=root, require_client_auth=clients is not None)

    def client(self, name: str, *, server_name: str | None = None) -> Tls:
        """Of a client of this name. Writing it again replaces what is in the same files."""
        issued = self._issue((name,))
        cert, key = self.folder / "client.pem", self.folder / "client.key"
        issued.private_key_pem.write_to_path(key)
        cert.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        return Tls(ca=self.file, cert=cert, key=key, server_name=server_name)

    def _issue(self, names: tuple[str, ...], *, expired: bool = False) -> trustme.LeafCert:
        end = datetime.now(UTC) - timedelta(days=1) if expired else None
        begin = end - timedelta(days=1) if end else None
        return self.ca.issue_cert(*names, not_before=begin, not_after=end)
