"""`blockyard serve`: its settings, its demo, its refusals."""

import re
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from blockyard import Client
from blockyard_server.settings import Settings
from tests.cli.conftest import CommandLine, serving
from tests.tls.authorities import Authorities


def test_help_names_every_setting_with_its_variable_and_its_default() -> None:
    page = " ".join(CommandLine("")("serve", "--help").out.split())

    for setting in fields(Settings):
        assert f"--{setting.name.replace('_', '-')} " in page
        assert f"BLOCKYARD_{setting.name.upper()}" in page
        if setting.name != "data":
            default = f"; default: {setting.default}" if setting.default else ""
            assert f"BLOCKYARD_{setting.name.upper()}{default}]" in page


def test_a_setting_out_of_its_limits_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    data = tmp_path / "blockyard.db"

    by_flag = CommandLine("")("serve", "--data", str(data), "--max-batch", "0")
    by_environment = CommandLine("")("serve", "--data", str(data), environment={"BLOCKYARD_LISTEN": "here"})

    assert (by_flag.code, by_flag.err.startswith("Error: max_batch is 0, and must be between ")) == (2, True)
    assert (by_environment.code, by_environment.err.startswith("Error: listen is 'here', and must be ")) == (2, True)
    assert not data.exists()


def test_a_file_and_a_database_at_once_are_refused(tmp_path: Path) -> None:
    data, url = tmp_path / "blockyard.db", "postgresql://me:s3cret@127.0.0.1:1/x"
    variables = {"BLOCKYARD_DATA": str(data), "BLOCKYARD_DATABASE": url}

    for arguments, environment in (
        (["--data", str(data), "--database", url], {}),
        (["--data", str(data)], {"BLOCKYARD_DATABASE": url}),
        (["--database", url], {"BLOCKYARD_DATA": str(data)}),
        ([], variables),
    ):
        refused = CommandLine("")("serve", *arguments, environment=environment)
        assert refused.code == 2
        assert refused.err.startswith("Error: data and database are both given, ")
        assert "s3cret" not in refused.err
    assert not data.exists()


def test_a_database_alone_is_asked_for_and_its_password_is_not_said() -> None:
    for password in ("s3cret", "12/s3cret"):
        refused = CommandLine("")("serve", "--database", f"postgresql://u:{password}@127.0.0.1:1/x")
        assert (refused.code, refused.err.startswith("Error: The service does not start: ")) == (1, True)
        assert "s3cret" not in refused.err


@pytest.mark.slow
def test_a_second_server_on_the_same_port_or_file_says_why_it_does_not_start(tmp_path: Path) -> None:
    data = tmp_path / "blockyard.db"
    with serving(data) as address:
        port = finish("serve", "--listen", address, "--data", str(tmp_path / "other.db"))
        file = finish("serve", "--listen", "127.0.0.1:0", "--data", str(data))

    for refused in (port, file):
        assert refused.returncode == 1
        assert "Error: The service does not start: " in refused.stderr
        assert "Traceback" not in refused.stderr
    assert port.stderr.startswith(
        f"Error: The service does not start: cannot listen on {address}: Address already in use"
    )
    assert len(port.stderr.splitlines()) == 1


def test_a_port_for_other_machines_without_protection_is_refused_in_one_line(tmp_path: Path) -> None:
    data = tmp_path / "blockyard.db"

    refused = finish("serve", "--listen", "0.0.0.0:0", "--data", str(data))

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "Error: The service does not start: --listen 0.0.0.0:0 would let everybody who reaches this port do "
        "everything: give --auth-file, or say --insecure-no-auth; and --listen 0.0.0.0:0 would send everything over "
        "the network in plaintext: give --tls-cert and --tls-key, or say --insecure-no-tls.\n"
    )
    assert not data.exists()


def test_the_settings_of_listeners_reach_the_server_and_it_says_where_it_listens(tmp_path: Path) -> None:
    authorities, admin = Authorities(tmp_path), tmp_path / "admin.sock"
    files = authorities.files
    flags = ("--tls-cert", str(files.certificate), "--tls-key", str(files.key), "--admin-socket", str(admin))
    options = ("--listen", "127.0.0.1:0, 127.0.0.1:0", "--data", str(tmp_path / "blockyard.db"), "--demo")
    mtls = ("--mtls-listen", "127.0.0.1:0", "--tls-client-ca", str(files.client_ca))
    process = CommandLine("").start("serve", *options, *flags, *mtls)
    assert process.stdout is not None

    line = process.stdout.readline()
    made = process.stdout.readline()
    described = CommandLine(f"unix:{admin}")("describe", "demo")
    process.send_signal(signal.SIGTERM)
    process.communicate()

    port = r"127\.0\.0\.1:[1-9]\d*"
    assert re.fullmatch(rf"Serving on {port}, {port}, {port} and unix:{admin}, data in .*\n", line)
    assert "is made" in made, "through the admin socket"
    assert described.code == 0


def test_a_demo_that_no_listener_would_let_in_is_refused(tmp_path: Path) -> None:
    refused = CommandLine("")("serve", "--demo", "--auth-file", str(tmp_path / "auth.toml"))

    assert (refused.code, refused.err.splitlines()[-1]) == (2, "Next: Give --admin-socket, too, or leave out --demo.")


@pytest.mark.slow
def test_the_demo_fleet_is_made_once(tmp_path: Path) -> None:
    data = tmp_path / "blockyard.db"
    for expected in ("is made", "is there already"):
        server = serving(data, "--demo")
        with server as address:
            assert server.process.stdout is not None
            assert expected in server.process.stdout.readline()
            with Client(address) as client:
                totals = client.describe("demo").totals
                assert (totals.instances, totals.busy_blocks) == (4, 20)
                assert client.verify("demo").clean
            assert "node-4  ----               0 of 4 busy  CORDONED" in CommandLine(address)("describe", "demo").out


@pytest.mark.slow
def test_a_signal_stops_the_server_in_peace(tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        server = serving(tmp_path / "blockyard.db")
        server.__enter__()
        server.process.send_signal(number)
        _, err = server.process.communicate()
        assert (server.process.returncode, err) == (0, "")


@pytest.mark.slow
def test_without_the_servers_parts_serve_says_what_to_install_and_the_rest_works(tmp_path: Path) -> None:
    # An empty module path entry that hides SQLAlchemy is what an installation without the extra looks like.
    hidden = "import sys; sys.modules['sqlalchemy'] = None; from blockyard.cli import main; sys.exit(main())"

    refused = subprocess.run(
        [sys.executable, "-c", hidden, "serve", "--data", str(tmp_path / "x.db")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert refused.returncode == 2
    assert refused.stderr == (
        "Error: The service needs a part that is not installed: sqlalchemy.\n"
        "Next: Install it: pip install 'blockyard[server]'.\n"
    )


def finish(*arguments: str) -> subprocess.CompletedProcess[str]:
    process = CommandLine("").start(*arguments)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
