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

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Of the scheduler's calls."""
        return (("authorization", f"Bearer {self.honest.secret}"),)

    def memory_mib(self, line: str = "VmRSS") -> float:
        """Of the server process; `VmHWM` is the most that it ever had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(each.split()[1]) / 1024 for each in status if each.startswith(line))


@contextmanager
def asking_server(folder: Path, **settings: Any) -> Iterator[AskingServer]:
    """A server with an auth file of two principals, on loopback."""
    admin, honest = new_token(), new_token()
    auth_file = folder / "auth.toml"
    folder.mkdir(parents=True, exist_ok=True)
    auth_file.touch(mode=0o600)
    auth_file.write_text(_principal("admin", "admin", admin) + _principal("honest", "scheduler", honest))
    with ServerProcess(folder, auth_file=auth_file, **settings) as process:
        process.start()
        with Client(process.address, token=admin.secret) as client:
            client.create_fleet(FLEET)
            client.create_instance(FLEET, "node", total_blocks=4096)
        yield AskingServer(process, admin, honest)


def _principal(id_: str, role: str, token: NewToken) -> str:
    grant = f'{{ role = "{role}", fleets = ["*"] }}'
    return f'[[principal]]\nid = "{id_}"\ntokens = [{token.toml()}]\ngrant = [{grant}]\n'


@contextmanager
def many_files() -> Iterator[None]:
    """As many connections as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
