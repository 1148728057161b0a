"""The compose file fits together, and what its one-shot makes serves."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from blockyard import Client, Tls, Unauthenticated
from tests.deploy.conftest import Ask
from tests.harness.process import COMMAND, ServerProcess

FOLDER: Final = Path(__file__).parents[2] / "deploy" / "compose"
TEXT: Final = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
COMPOSE: Final[dict[str, Any]] = yaml.safe_load(TEXT)
SERVICES: Final[dict[str, Any]] = COMPOSE["services"]
MADE_BY_THE_USER: Final = {"auth.toml"}


@pytest.mark.deploy
def test_it_is_a_compose_file(ask: Ask) -> None:
    filled = re.sub(r"\$\{\w+(?::-([^}]*)|:\?[^}]*)?\}", lambda found: found[1] or "x", TEXT)
    done = ask("compose", filled)
    misspelt = ask("compose", filled.replace("restart: unless-stopped", "restart: unless-stoped", 1))

    assert done.returncode == 0, done.stderr
    assert misspelt.returncode == 1


def test_it_names_services_volumes_and_files_that_are_there() -> None:
    mounts = [mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", ())]
    files = {mount.removeprefix("./") for mount in mounts if mount.startswith("./")}
    waited_for = {name for service in SERVICES.values() for name in service.get("depends_on", ())}

    assert {mount for mount in mounts if not mount.startswith("./")} == COMPOSE["volumes"].keys()
    assert {name for name in files - MADE_BY_THE_USER if not (FOLDER / name).is_file()} == set()
    assert waited_for <= SERVICES.keys()


def test_the_ports_are_those_on_which_the_server_listens() -> None:
    server = SERVICES["blockyard"]
    listened = {server["environment"][f"BLOCKYARD_{name}"].rpartition(":")[2] for name in ("LISTEN", "METRICS_LISTEN")}
    scraped = yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))["scrape_configs"][0]["static_configs"]

    assert {port.rpartition(":")[2] for port in server["ports"]} <= listened
    assert scraped == [{"targets": ["blockyard:9350"]}]
    assert "9350" in listened
    assert server["stop_grace_period"] == "30s"


def test_the_server_asks_the_database_that_is_there() -> None:
    url, postgres = SERVICES["blockyard"]["environment"]["BLOCKYARD_DATABASE"], SERVICES["postgres"]["environment"]

    assert url.startswith(f"postgresql://{postgres['POSTGRES_USER']}:")
    assert url.endswith(f"@postgres:5432/{postgres['POSTGRES_DB']}")
    assert re.findall(r"\$\{.*?\}", url) == [postgres["POSTGRES_PASSWORD"]]


def test_a_server_serves_with_what_the_one_shot_makes(tmp_path: Path) -> None:
    folder, auth, mine = tmp_path / "config", tmp_path / "auth.toml", f"{os.getuid()}:{os.getgid()}"
    folder.mkdir()
    made = subprocess.run([*COMMAND, "token", "new", "ops"], capture_output=True, text=True, check=True).stdout
    entry = made[made.index("[[principal]]") :]
    auth.write_text(f'{entry}grant = [{{ role = "operator", fleets = ["*"] }}]\n', encoding="utf-8")
    for _ in range(2):  # each start of the service runs it again
        subprocess.run(["sh", FOLDER / "prepare.sh", folder, auth, mine], check=True, capture_output=True)
    tls_cert, tls_key, auth_file = (folder / name for name in ("server.pem", "server-key.pem", "auth.toml"))

    with ServerProcess(tmp_path, tls_cert=tls_cert, tls_key=tls_key, auth_file=auth_file) as server:
        server.start()
        with Client(server.address, tls=Tls(ca=folder / "ca.pem"), token=made.split()[0]) as client:
            assert list(client.list_fleets()) == []
        with Client(server.address, tls=Tls(ca=folder / "ca.pem")) as stranger, pytest.raises(Unauthenticated):
            list(stranger.list_fleets())
    assert (folder / "auth.toml").stat().st_mode & 0o777 == 0o600
    assert not (folder / "ca-key.pem").exists()
