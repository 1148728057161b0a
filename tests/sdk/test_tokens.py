"""The token of a client: how it is sent, where it comes from, and what follows when the server no longer takes it."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from blockyard import AsyncClient, Client, CredentialsExpired, Unauthenticated, _token
from blockyard.reasons import Reason
from tests.sdk.fake_server import FakeServer, Refused, serving
from tests.sdk.samples import READ, answer_reads
from tests.sdk.test_watch import answer
from tests.sdk.two_clients import Connect

SECRET = "bkyd_k3v9aaaa_c2VjcmV0"


@pytest.fixture
def guarded(fake: FakeServer) -> FakeServer:
    """A server that lets in whoever has the token `old`."""
    fake.tokens = {"old"}
    answer_reads(fake)
    return fake


def sent(fake: FakeServer) -> list[Any]:
    return [seen.metadata.get("authorization") for seen in fake.seen]


class Asked:
    """A function that gives one token after the other, and counts."""

    def __init__(self, *tokens: str) -> None:
        self.count = 0
        self._tokens = tokens

    def __call__(self) -> str:
        self.count += 1
        return self._tokens[min(self.count, len(self._tokens)) - 1]


@pytest.fixture
def a_second_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_token, "BETWEEN_QUESTIONS_S", 0.0)


def test_without_a_token_nothing_is_sent_and_the_refusal_is_raised(guarded: FakeServer, connect: Connect) -> None:
    with connect(guarded.target) as steps, pytest.raises(Unauthenticated) as e:
        steps.call(READ)

    assert (e.value.reason, e.value.status) == (Reason.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert sent(guarded) == [None]


def test_a_token_is_sent_with_every_call(guarded: FakeServer, connect: Connect) -> None:
    with connect(guarded.target, token="old", caller="sched") as steps:
        steps.call(READ)
        steps.call(READ)

    assert sent(guarded) == ["Bearer old"] * 2
    assert guarded.seen[0].metadata["blockyard-caller"] == "sched"


def test_a_constant_token_that_is_refused_is_not_sent_again(guarded: FakeServer, connect: Connect) -> None:
    with connect(guarded.target, token="bad") as steps, pytest.raises(Unauthenticated):
        steps.call(READ)

    assert sent(guarded) == ["Bearer bad"]


def test_a_function_is_asked_once_until_its_token_is_refused(guarded: FakeServer, connect: Connect) -> None:
    function = Asked("old", "new")
    with connect(guarded.target, token=function) as steps:
        assert function.count == 0
        steps.call(READ)
        steps.call(READ)
        assert function.count == 1
        guarded.tokens = {"new"}
        steps.call(READ)

    assert function.count == 2
    assert sent(guarded) == ["Bearer old", "Bearer old", "Bearer old", "Bearer new"]


@pytest.mark.usefixtures("a_second_is_over")
def test_a_call_is_made_again_once_and_no_more(guarded: FakeServer, connect: Connect) -> None:
    with connect(guarded.target, token=Asked("a", "b", "c")) as steps, pytest.raises(Unauthenticated):
        steps.call(READ)

    assert sent(guarded) == ["Bearer a", "Bearer b"]


def test_calls_that_are_refused_together_ask_once(guarded: FakeServer, connect: Connect) -> None:
    function = Asked("bad", "bad", "bad")
    with connect(guarded.target, token=function) as steps, ThreadPoolExecutor(8) as threads:
        results = [threads.submit(steps.call, READ) for _ in range(40)]
        failures = [result.exception() for result in results]

    assert {type(failure) for failure in failures} == {Unauthenticated}
    assert function.count == 2


@pytest.mark.usefixtures("a_second_is_over")
def test_calls_that_are_refused_together_all_go_on_with_the_new_token(guarded: FakeServer, connect: Connect) -> None:
    function = Asked("old", "new")
    with connect(guarded.target, token=function) as steps, ThreadPoolExecutor(8) as threads:
        steps.call(READ)
        guarded.tokens = {"new"}
        for result in [threads.submit(steps.call, READ) for _ in range(40)]:
            result.result()

    assert function.count == 2


def test_what_the_function_raises_is_raised_if_there_is_no_token_yet(fake: FakeServer, connect: Connect) -> None:
    def broken() -> str:
        raise LookupError("no identity here")

    with connect(fake.target, token=broken) as steps, pytest.raises(LookupError, match="no identity here"):
        steps.call(READ)
    assert fake.seen == []


def test_a_function_that_fails_later_leaves_the_refusal_and_a_warning(
    guarded: FakeServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = iter(["bad"])
    with connect(guarded.target, token=lambda: next(tokens)) as steps, pytest.raises(Unauthenticated):
        steps.call(READ)

    assert "there is no new token" in caplog.text


@pytest.mark.parametrize("value", [None, b"old", 7])
def test_what_is_no_string_is_no_token(fake: FakeServer, connect: Connect, value: Any) -> None:
    with connect(fake.target, token=lambda: value) as steps, pytest.raises(TypeError, match="and not a str"):
        steps.call(READ)


async def test_a_function_that_takes_its_time_does_not_stop_the_event_loop(guarded: FakeServer) -> None:
    asked, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow() -> str:
        loop.call_soon_threadsafe(asked.set)
        assert go_on.wait(60)
        return "old"

    async with AsyncClient(guarded.target, token=slow) as client:
        calling = asyncio.ensure_future(client.call(READ))
        await asked.wait()  # the loop is free
        go_on.set()
        await calling


def write(path: Path, token: str) -> None:
    """As Kubernetes and agents do: beside, and then in place of the old one."""
    beside = path.with_suffix(".new")
    beside.write_text(f"{token}\n")
    beside.replace(path)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    write(path, "old")
    return path


def test_a_file_that_has_changed_is_read_when_its_token_is_refused(
    guarded: FakeServer, connect: Connect, token_file: Path
) -> None:
    with connect(guarded.target, token_file=token_file) as steps:
        steps.call(READ)
        write(token_file, "new")
        steps.call(READ)  # not looked at: the token is good
        guarded.tokens = {"new"}
        steps.call(READ)

    assert sent(guarded) == ["Bearer old"] * 3 + ["Bearer new"]


def test_a_file_that_has_not_changed_is_not_tried_twice(
    guarded: FakeServer, connect: Connect, token_file: Path
) -> None:
    guarded.tokens = {"new"}
    with connect(guarded.target, token_file=str(token_file)) as steps, pytest.raises(Unauthenticated):
        steps.call(READ)

    assert sent(guarded) == ["Bearer old"]


@pytest.fixture
def a_minute_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_token, "LOOK_S", 0.0)


@pytest.mark.usefixtures("a_minute_is_over")
def test_a_file_is_looked_at_from_time_to_time(guarded: FakeServer, connect: Connect, token_file: Path) -> None:
    guarded.tokens = {"old", "new"}
    with connect(guarded.target, token_file=token_file) as steps:
        steps.call(READ)
        write(token_file, "new")
        steps.call(READ)

    assert sent(guarded) == ["Bearer old", "Bearer new"]


@pytest.mark.usefixtures("a_minute_is_over")
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text(""), lambda path: path.write_text("a b")])
def test_the_token_before_is_used_on_while_the_file_is_of_no_use(
    guarded: FakeServer, connect: Connect, token_file: Path, damage: Callable[[Path], object]
) -> None:
    with connect(guarded.target, token_file=token_file) as steps:
        damage(token_file)
        steps.call(READ)
        guarded.tokens = {"new"}
        write(token_file, "new")
        steps.call(READ)

    assert sent(guarded) == ["Bearer old", "Bearer new"]


def test_a_file_that_is_not_there_is_said_when_the_client_is_made(fake: FakeServer, tmp_path: Path) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(FileNotFoundError, match="missing"):
            kind(fake.target, token_file=tmp_path / "missing")


@pytest.mark.parametrize("text", ["", " \n", f"Bearer {SECRET}", f"{SECRET}\n{SECRET}", f"{SECRET}é", SECRET * 1000])
def test_what_is_no_token_is_refused_without_saying_it(fake: FakeServer, tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    for given in ({"token": text}, {"token_file": path}):
        for kind in (Client, AsyncClient):
            with pytest.raises(ValueError, match="token") as e:
                kind(fake.target, **given)
            assert SECRET not in str(e.value)


def test_a_token_has_one_origin(fake: FakeServer, token_file: Path) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="exclude each other"):
            kind(fake.target, token="old", token_file=token_file)
        with pytest.raises(ValueError, match="token_file is empty"):
            kind(fake.target, token_file="")


def test_a_client_does_not_look_for_a_token_in_the_environment(
    guarded: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOCKYARD_TOKEN", "old")
    with Client(guarded.target) as client, pytest.raises(Unauthenticated):
        client.call(READ)


def test_a_watch_whose_credentials_expire_goes_on_with_new_ones(guarded: FakeServer, connect: Connect) -> None:
    guarded.streams("Watch", [answer(2), answer(3, 3), Refused(Reason.CREDENTIALS_EXPIRED)], [answer(3), answer(4, 4)])
    function = Asked("old", "new")
    with connect(guarded.target, token=function) as steps, steps.updates("gpu") as updates:
        seen = [next(updates).revision, next(updates).revision]
        guarded.tokens = {"new"}
        seen += [next(updates).revision, next(updates).revision]

    assert seen == [2, 3, 3, 4]
    assert sent(guarded) == ["Bearer old", "Bearer new"]
    assert [request.from_revision for request in guarded.requests("Watch")] == [0, 4]


def test_a_watch_with_a_file_reads_it_when_its_credentials_expire(
    guarded: FakeServer, connect: Connect, token_file: Path
) -> None:
    guarded.streams("Watch", [answer(2), Refused(Reason.CREDENTIALS_EXPIRED)], [answer(2)])
    guarded.tokens = {"old", "new"}
    with connect(guarded.target, token_file=token_file) as steps, steps.updates("gpu") as updates:
        next(updates)
        write(token_file, "new")
        next(updates)

    assert sent(guarded) == ["Bearer old", "Bearer new"]


def test_a_watch_ends_when_there_are_no_new_credentials(guarded: FakeServer, connect: Connect) -> None:
    guarded.streams("Watch", [answer(2), Refused(Reason.CREDENTIALS_EXPIRED)])
    with connect(guarded.target, token="old") as steps, steps.updates("gpu") as updates:
        next(updates)
        guarded.tokens = {"new"}
        with pytest.raises(Unauthenticated) as e:
            next(updates)

    assert not isinstance(e.value, CredentialsExpired)
    assert sent(guarded) == ["Bearer old"] * 2


@pytest.mark.usefixtures("a_second_is_over")
def test_a_watch_that_is_refused_at_its_beginning_is_opened_again_once(guarded: FakeServer, connect: Connect) -> None:
    with (
        connect(guarded.target, token=Asked("a", "b", "c")) as steps,
        steps.updates("gpu") as updates,
        pytest.raises(Unauthenticated),
    ):
        next(updates)

    assert sent(guarded) == ["Bearer a", "Bearer b"]


def test_a_token_goes_to_a_unix_socket(connect: Connect, tmp_path: Path) -> None:
    fake = FakeServer(tokens={"old"})
    answer_reads(fake)
    with serving(fake, f"unix:{tmp_path}/b.sock"), connect(fake.target, token="old") as steps:
        steps.call(READ)

    assert sent(fake) == ["Bearer old"]
