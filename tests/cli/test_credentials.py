"""Commands beside real servers that want to know who calls: what is sent, and what is said when that is not enough."""

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from blockyard import Tls
from blockyard.cli import probe
from blockyard.reasons import Reason
from blockyard.v1 import access_pb2, fleet_admin_pb2
from tests.cli.conftest import CommandLine, Finished
from tests.sdk.certificates import HERE, Authority
from tests.sdk.fake_server import FakeServer, error_status, serving

Start = Callable[..., FakeServer]


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers that know the token `good`, or everybody who has a certificate."""
    with ExitStack() as stack:

        def started(
            credentials: grpc.ServerCredentials | None = None,
            address: str = f"{HERE}:0",
            tokens: tuple[str, ...] | None = ("good",),
        ) -> FakeServer:
            fake = FakeServer(tokens=None if tokens is None else set(tokens))
            fake.answers("ListFleets", fleet_admin_pb2.ListFleetsResponse())
            return stack.enter_context(serving(fake, address, credentials))

        yield started


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., Finished]:
    """`blockyard` of a user without an address, whose settings are in a folder."""

    def run(*words: str, **variables: str) -> Finished:
        settings = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HOME": str(tmp_path)}
        return CommandLine("")(*words, environment=settings | variables)

    return run


Shell = Callable[..., Finished]
LIST = ("fleet", "list")


def sent(fake: FakeServer) -> list[object]:
    return [seen.metadata.get("authorization") for seen in fake.seen]


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.write_text("good\n")
    return str(path)


def test_a_token_comes_from_the_environment_or_a_file(start: Start, shell: Shell, token_file: str) -> None:
    fake = start()
    at = ("--address", fake.target)

    assert shell(*LIST, *at, BLOCKYARD_TOKEN="good").code == 0
    assert shell(*LIST, *at, BLOCKYARD_TOKEN_FILE=token_file).code == 0
    assert shell(*LIST, *at, "--token-file", token_file).code == 0
    assert shell("--token-file", token_file, *at, *LIST).code == 0
    assert shell("--token-file", token_file, *LIST, *at).code == 0
    assert shell(*LIST, BLOCKYARD_ADDRESS=fake.target, BLOCKYARD_TOKEN="good").code == 0
    assert sent(fake) == ["Bearer good"] * 6


def test_a_context_has_all_that_is_needed(start: Start, shell: Shell, ours: Authority, token_file: str) -> None:
    fake = start(ours.server("blockyard.example"))
    add = ("context", "add", "prod", "--address", fake.target, "--ca", str(ours.file), "--caller", "sched")
    assert shell(*add, "--server-name", "blockyard.example", "--token-file", token_file).code == 0

    assert shell(*LIST).code == 0
    assert shell(*LIST, "--context", "prod").code == 0
    assert shell("--context", "prod", *LIST, BLOCKYARD_CALLER="other").code == 0
    assert shell(*LIST, BLOCKYARD_CONTEXT="prod").code == 0
    assert sent(fake) == ["Bearer good"] * 4
    assert [seen.metadata["blockyard-caller"] for seen in fake.seen] == ["sched", "sched", "other", "sched"]


def test_a_token_may_be_what_a_command_prints(start: Start, shell: Shell, tmp_path: Path) -> None:
    """It runs once for a command of ours."""
    fake = start()
    runs = tmp_path / "runs"
    program = tmp_path / "login.py"
    program.write_text(f"open({str(runs)!r}, 'a').write('x'); print('good')")
    words = f"{sys.executable} {program}"
    assert shell("context", "add", "prod", "--address", fake.target, "--token-command", words).code == 0

    assert shell(*LIST).code == 0
    assert (sent(fake), runs.read_text()) == (["Bearer good"], "x")


def test_a_command_that_prints_no_token_is_said(start: Start, shell: Shell) -> None:
    fake = start()
    shell(
        "context",
        "add",
        "prod",
        "--address",
        fake.target,
        "--token-command",
        f"{sys.executable} -c 'exit(\"no login\")'",
    )

    done = shell(*LIST)

    assert (done.code, done.out, fake.seen) == (1, "", [])
    assert "ended with 1: no login" in done.err


def test_a_client_certificate(start: Start, shell: Shell, ours: Authority) -> None:
    fake = start(ours.server(clients=ours), tokens=None)
    tls = ours.client("sched.example")
    options = ("--address", fake.target, "--ca", str(tls.ca), "--cert", str(tls.cert), "--key", str(tls.key))

    assert shell(*LIST, *options).code == 0
    assert [set(seen.certificate) for seen in fake.seen] == [{"sched.example"}]


def test_a_unix_socket(start: Start, shell: Shell, tmp_path: Path) -> None:
    fake = start(address=f"unix:{tmp_path}/b.sock")

    assert shell(*LIST, "--address", fake.target, BLOCKYARD_TOKEN="good").code == 0
    done = shell(*LIST, "--address", f"unix:{tmp_path}/other.sock")
    assert (done.code, "No such file" in done.err) == (3, True)


def test_several_servers_with_tls(start: Start, shell: Shell, ours: Authority) -> None:
    """The first one is down, and has given its name to all."""
    fake = start(ours.server("localhost"))
    target = f"localhost:1,{fake.target}"

    assert shell(*LIST, "--address", target, "--ca", str(ours.file), BLOCKYARD_TOKEN="good").code == 0


@pytest.mark.parametrize("words", [LIST, ("auth", "whoami"), ("describe", "gpu"), ("watch", "gpu")])
def test_a_stranger_is_told_where_to_look(start: Start, shell: Shell, words: tuple[str, ...]) -> None:
    fake = start()

    for variables in ({}, {"BLOCKYARD_TOKEN": "bad-s3cret"}):
        done = shell(*words, "--address", fake.target, **variables)
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith("Error (UNAUTHENTICATED): ")
        assert "`blockyard context show` says which are used" in done.err
        assert "s3cret" not in done.err


def test_who_may_not_is_told_where_its_roles_are(start: Start, shell: Shell) -> None:
    fake = start(tokens=None)
    status = error_status(Reason.NOT_PERMITTED, "no", permission="READ", fleet="gpu", principal="a")
    fake.answers("ListFleets", lambda _: fake.refuse(status))

    done = shell(*LIST, "--address", fake.target)

    assert done.code == 1
    assert "Error (NOT_PERMITTED): no." in done.err
    assert "`blockyard auth whoami` shows your roles" in done.err


def test_a_token_in_plain_text_is_refused_with_what_to_do(shell: Shell) -> None:
    # 0.0.0.0 is no loopback address, and reaches this machine.
    fake = FakeServer()
    with serving(fake, "0.0.0.0:0"):
        done = shell(*LIST, "--address", fake.target, BLOCKYARD_TOKEN="s3cret")
        assert (done.code, fake.seen) == (2, [])
        assert "in plain text" in done.err
        assert "BLOCKYARD_INSECURE_TOKEN=1" in done.err
        assert "s3cret" not in done.err


def test_tls_that_cannot_be_agreed_on_is_said_in_a_sentence(
    start: Start, shell: Shell, ours: Authority, tmp_path: Path
) -> None:
    encrypted, plain = start(ours.server()), start()
    expired, named = start(ours.server(expired=True)), start(ours.server("blockyard.example"))
    for_clients = start(ours.server(clients=ours), tokens=None)
    theirs = Authority(tmp_path)
    stranger = Authority(tmp_path / "stranger")
    stranger.folder.mkdir()
    tls = stranger.client("a")
    ca = ("--ca", str(ours.file))
    foreign = ("--cert", str(tls.cert), "--key", str(tls.key))
    cases = [
        (encrypted, (), "speaks TLS, and plain text was asked for", "--ca"),
        (plain, ca, "does not speak TLS there", "--no-tls"),
        (encrypted, ("--ca", str(theirs.file)), "signed by no trusted authority", "--ca"),
        (encrypted, ("--tls",), "signed by no trusted authority", "--ca"),
        (expired, ca, "certificate has expired", "Renew it"),
        (named, ca, f"certificate is not for {HERE}", "--server-name"),
        (encrypted, (*ca, "--server-name", "b.example"), "certificate is not for b.example", "--server-name"),
        (for_clients, ca, "ended the connection after the TLS handshake", "--cert"),
        (for_clients, (*ca, *foreign), "ended the connection after the TLS handshake", "check --cert"),
    ]
    for fake, options, fault, next_step in cases:
        done = shell(*LIST, "--address", fake.target, *options)
        error, *rest = done.err.splitlines()
        assert (done.code, done.out, fake.seen) == (3, "", []), fault
        assert error.startswith(f"Error: The service at {fake.target} cannot be called: ")
        assert fault in error
        assert [next_step in line and line.startswith("Next: ") for line in rest] == [True]


def test_files_of_tls_that_are_not_there_or_no_certificates_are_wrong_usage(
    start: Start, shell: Shell, ours: Authority, tmp_path: Path
) -> None:
    fake = start(ours.server())
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    for path in ("/nowhere/ca.pem", str(rubbish)):
        done = shell(*LIST, "--address", fake.target, "--ca", path)
        assert (done.code, path in done.err) == (2, True)


def test_what_the_probe_does_not_understand_is_left_to_the_call(
    monkeypatch: pytest.MonkeyPatch, ours: Authority
) -> None:
    monkeypatch.setattr(probe, "ANSWER_S", 0.05)
    monkeypatch.setattr(probe, "TIMEOUT_S", 0.2)
    with socket.create_server((HERE, 0)) as silent:
        target = f"{HERE}:{silent.getsockname()[1]}"
        probe.probe(target, None)
    for form in ("dns:///nowhere.example:1", "xds:///nowhere"):
        probe.probe(form, None)
        probe.probe(form, Tls(ca=ours.file))


@pytest.mark.parametrize("option", ["--context", "--token-file", "--ca", "--cert", "--key", "--server-name"])
def test_an_option_that_is_empty_is_wrong_usage(shell: Shell, option: str) -> None:
    for words in ((*LIST, option, ""), (option, "", *LIST)):
        done = shell(*words)
        assert (done.code, done.out) == (2, "")
        assert "it is empty" in done.err


def test_who_i_am_and_what_i_may(start: Start, shell: Shell) -> None:
    fake = start()
    answer = access_pb2.WhoAmIResponse(principal="sched-a", tenant="train", via="token:k3v9")
    answer.grants.add(role="scheduler", fleets=["train-*", "gpu"])
    answer.expire_time.FromJsonString("2027-01-01T00:00:00Z")
    fake.answers("WhoAmI", answer)
    fake.answers("CanI", lambda asked: access_pb2.CanIResponse(permitted=asked.permission == access_pb2.READ))
    at = {"BLOCKYARD_ADDRESS": fake.target, "BLOCKYARD_TOKEN": "good"}

    assert shell("auth", "whoami", **at).out.splitlines() == [
        "sched-a of tenant train",
        "  known by  token:k3v9",
        "  until     2027-01-01 00:00:00Z",
        "  role      scheduler on train-*, gpu",
    ]
    assert shell("auth", "whoami", "-o", "json", **at).document == {
        "principal": "sched-a",
        "tenant": "train",
        "via": "token:k3v9",
        "grants": [{"role": "scheduler", "fleets": ["train-*", "gpu"]}],
        "expire_time": "2027-01-01T00:00:00Z",
    }
    yes, no = (shell("auth", "can-i", word, "--fleet", "gpu", **at) for word in ("read", "FLEETS"))
    assert (yes.code, yes.out) == (0, "yes\n")
    assert (no.code, no.out, no.err) == (1, "no\n", "")
    assert shell("auth", "can-i", "fleets", "--fleet", "gpu", "-o", "json", **at).document == {"permitted": False}
    assert shell("auth", "can-i", "everything", "--fleet", "gpu", **at).code == 2
    assert [request.fleet for request in fake.requests("CanI")] == ["fleets/gpu"] * 3


def test_run_sends_its_token_too(start: Start, token_file: str) -> None:
    fake = start()
    fake.ttl_s = 60
    command = CommandLine(fake.target).start(
        "run", "--fleet", "gpu", "--token-file", token_file, "--", sys.executable, "-c", "print('ran')"
    )
    out, err = command.communicate(timeout=60)

    assert (command.returncode, out, err) == (0, "ran\n", "")
    assert set(sent(fake)) == {"Bearer good"}
