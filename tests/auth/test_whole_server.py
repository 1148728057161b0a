"""A server with an auth file, as a process of its own, and clients of the SDK that it knows or does not know."""

import hashlib
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.request import urlopen

import pytest

from blockyard import Client, EventKind, LimitExceeded, NotOwner, NotPermitted, RetryPolicy, Unauthenticated
from blockyard.reasons import Reason
from blockyard_server.rpc.auth.tokens import new_token
from tests.cli.conftest import CommandLine
from tests.harness.patience import until
from tests.harness.process import ServerProcess, free_port

GRANTS: Final = {
    "admin": ("ops", 'role = "admin", fleets = ["*"]'),
    "train": ("train", 'role = "scheduler", fleets = ["gpu"]'),
    "infer": ("infer", 'role = "scheduler", fleets = ["gpu"]'),
}
QUICK: Final = RetryPolicy(initial_s=0.001, max_s=0.01)


@dataclass
class Served:
    """A server, and the tokens of its principals."""

    process: ServerProcess
    auth_file: Path
    tokens: dict[str, str]
    metrics: str

    def write(self, *ids: str) -> None:
        """An auth file with these principals."""
        self.auth_file.write_text("\n".join(_principal(id_, self.tokens[id_]) for id_ in ids))

    def client(self, id_: str) -> Client:
        """A client of this principal."""
        return Client(self.process.address, token=self.tokens[id_], retry=QUICK, timeout_s=20)


def _principal(id_: str, token: str) -> str:
    tenant, grant = GRANTS[id_]
    digest = hashlib.sha256(token.encode()).hexdigest()
    return (
        f'[[principal]]\nid = "{id_}"\ntenant = "{tenant}"\n'
        f'tokens = [{{ id = "{id_}", sha256 = "{digest}" }}]\ngrant = [{{ {grant} }}]\n'
    )


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    auth_file = tmp_path / "auth.toml"
    auth_file.touch(mode=0o600)
    metrics = f"127.0.0.1:{free_port()}"
    with ServerProcess(
        tmp_path, auth_file=auth_file, log_level="INFO", ops_listen=metrics, max_open_cancellations=3
    ) as process:
        made = Served(process, auth_file, {id_: new_token().secret for id_ in GRANTS}, metrics)
        made.write(*GRANTS)
        process.start()
        with made.client("admin") as admin:
            admin.create_fleet("gpu")
            admin.create_instance("gpu", "n1", total_blocks=8)
        yield made


def test_each_cancels_no_more_tokens_than_the_server_says(served: Served) -> None:
    with served.client("train") as train, served.client("infer") as infer:
        for number in range(3):
            train.release_by_token("gpu", f"t-{number}")
        with pytest.raises(LimitExceeded) as refusal:
            train.release_by_token("gpu", "t-3")
        infer.release_by_token("gpu", "t-3")

    assert refusal.value.metadata["limit"] == "open_cancellations"
    assert refusal.value.metadata["maximum"] == "3"


def test_each_does_what_its_roles_allow_and_the_journal_says_who(served: Served) -> None:
    with served.client("train") as train, served.client("infer") as infer, served.client("admin") as admin:
        grant = train.acquire("gpu", blocks=2, holder="job-1", token="t-1")
        with pytest.raises(NotPermitted):
            train.create_fleet("mine")
        with pytest.raises(NotOwner):
            infer.release(grant.allocation)
        own = {event.kind: (event.actor, event.holder) for event in train.list_events("gpu")}
        theirs = {event.kind: (event.actor, event.holder) for event in infer.list_events("gpu")}
        admin.release(grant.allocation)
        last = list(train.list_events("gpu"))[-1]

    assert own[EventKind.GRANTED] == ("train/train", "job-1")
    assert theirs[EventKind.GRANTED] == (None, None)
    assert (last.kind, last.actor, last.via) == (EventKind.RELEASED, "ops/admin", "token:admin")
    assert '"event": "denied"' in served.process.errors()


@pytest.mark.parametrize("words", [("events",), ("watch", "--limit", "2")], ids=["events", "watch"])
def test_the_command_line_shows_who_asked_for_each_change_to_who_may_know(
    served: Served, words: tuple[str, ...]
) -> None:
    def shown_to(id_: str, *more: str) -> list[str]:
        environment = {"BLOCKYARD_TOKEN": served.tokens[id_]}
        done = CommandLine(served.process.address)(*words, "gpu", "--from", "3", *more, environment=environment)
        assert (done.code, done.err) == (0, "")
        return done.out.splitlines()

    with served.client("train") as train, served.client("admin") as admin:
        grant = train.acquire("gpu", blocks=2, holder="job-1")
        admin.release(grant.allocation)
    lines = shown_to("admin")[-2:]
    said = "\n".join(shown_to("admin", "-o", "json"))
    documents = json.loads(said)["events"] if words == ("events",) else [json.loads(each) for each in said.splitlines()]

    assert [line.partition(" by ")[2].rstrip() for line in lines] == ["train/train", "ops/admin"]
    assert [(event["actor"], event["via"]) for event in documents] == [
        ("train/train", "token:train"),
        ("ops/admin", "token:admin"),
    ]
    assert not [line for line in shown_to("infer") if " by " in line or "job-1" in line]


@pytest.mark.parametrize("token", [None, "bkyd_nobody"])
def test_a_stranger_learns_nothing(served: Served, token: str | None) -> None:
    with Client(served.process.address, token=token, retry=QUICK) as stranger, pytest.raises(Unauthenticated) as told:
        stranger.describe("gpu")

    assert told.value.reason == Reason.UNAUTHENTICATED


def test_several_servers_are_found_healthy_without_credentials(served: Served, tmp_path: Path) -> None:
    """The health checks of gRPC's clients send none; one of the servers is away."""
    with ServerProcess(tmp_path / "away") as away:
        targets = f"{served.process.address},{away.address}"
        with Client(targets, token=served.tokens["train"], timeout_s=20) as client:
            assert client.describe("gpu").totals.total_blocks == 8


def test_a_changed_auth_file_is_taken_and_a_broken_one_is_not(served: Served) -> None:
    def is_known(id_: str) -> bool:
        with served.client(id_) as client:
            try:
                client.describe("gpu")
            except Unauthenticated:
                return False
        return True

    served.write("admin", "train")
    served.process.send(signal.SIGHUP)
    until(lambda: not is_known("infer"), "the one that is gone is refused")
    served.auth_file.write_text("this is no TOML")
    served.process.send(signal.SIGHUP)
    until(lambda: "the last good one goes on" in served.process.errors(), "the log says so")

    assert is_known("train")


def test_metrics_count_who_was_refused_and_what_was_denied(served: Served) -> None:
    with served.client("train") as train, pytest.raises(NotPermitted):
        train.delete_fleet("gpu")
    stranger = Client(served.process.address, token="bkyd_unknown", retry=QUICK)
    with stranger, pytest.raises(Unauthenticated):
        stranger.describe("gpu")
    with urlopen(f"http://{served.metrics}/metrics", timeout=20) as answer:
        said = answer.read().decode()

    assert 'blockyard_denied_total{permission="FLEETS"} 1.0' in said
    assert 'blockyard_auth_failures_total{hint="unknown",scheme="bearer"} 1.0' in said
    assert "blockyard_audit_lines_dropped_total 0.0" in said


def test_the_token_of_somebody_stands_in_no_log(served: Served) -> None:
    with served.client("train") as train:
        train.acquire("gpu", blocks=1, holder="job", token="t")
        with pytest.raises(NotPermitted):
            train.delete_fleet("gpu")
    unknown = Client(served.process.address, token="bkyd_unknown1_secretsecret", retry=QUICK)
    with unknown as stranger, pytest.raises(Unauthenticated):
        stranger.describe("gpu")
    served.process.terminate()
    said = served.process.errors()

    assert "secretsecret" not in said
    assert not [token for token in served.tokens.values() if token in said]
