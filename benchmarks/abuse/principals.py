"""A server that asks who calls, for the scenarios of abuse."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blockyard import Client
from blockyard_server.rpc.auth.tokens import NewToken, new_token
from tests.harness.process import ServerProcess

FLEET = "gpu"


@dataclass(frozen=True)
class AskingServer:
    """It runs, and has a fleet."""

    process: ServerProcess
    admin: NewToken
    honest: NewToken
    """Of a scheduler."""
    without_role: NewToken
    """Of a principal to whom nothing is granted."""
    elsewhere: NewToken
    """Of a scheduler on other fleets."""

    def metadata(self, token: NewToken | None = None) -> tuple[tuple[str, str], ...]:
        """Of the calls with a token; None: of the honest scheduler's."""
        return (("authorization", f"Bearer {(token or self.honest).secret}"),)

    def memory_mib(self, line: str = "VmRSS") -> float:
        """Of the server process; `VmHWM` is the most that it ever had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(each.split()[1]) / 1024 for each in status if each.startswith(line))


@contextmanager
def asking_server(folder: Path, **settings: Any) -> Iterator[AskingServer]:
    """A server with an auth file, on loopback."""
    admin, honest, without_role, elsewhere = (new_token() for _ in range(4))
    auth_file = folder / "auth.toml"
    folder.mkdir(parents=True, exist_ok=True)
    auth_file.touch(mode=0o600)
    auth_file.write_text(
        _principal("admin", admin, "admin")
        + _principal("honest", honest, "scheduler")
        + _principal("without-role", without_role)
        + _principal("elsewhere", elsewhere, "scheduler", "other-*")
    )
    with ServerProcess(folder, auth_file=auth_file, **settings) as process:
        process.start()
        with Client(process.address, token=admin.secret) as client:
            client.create_fleet(FLEET)
            client.create_instance(FLEET, "node", total_blocks=4096)
        yield AskingServer(process, admin, honest, without_role, elsewhere)


def _principal(id_: str, token: NewToken, role: str = "", fleets: str = "*") -> str:
    grants = f'grant = [{{ role = "{role}", fleets = ["{fleets}"] }}]\n' if role else ""
    return f'[[principal]]\nid = "{id_}"\ntokens = [{token.toml()}]\n{grants}'


@contextmanager
def many_files() -> Iterator[None]:
    """As many connections as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
