"""All failed logins are counted, and strangers do not decide how long the log is."""

import json
from typing import Any

import pytest

from blockyard_server.rpc.auth.authenticator import Unauthenticated
from blockyard_server.rpc.auth.failed_logins import MAX_PEERS, OTHERS, FailedLogins, host_of
from blockyard_server.rpc.auth.hints import Hint, Scheme


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.message) for record in caplog.records]


def line(peer: str, times: int, **more: str) -> dict[str, Any]:
    return {"event": "login_refused", "peer": peer, "scheme": "token", "hint": "unknown", **more, "times": times}


def unknown(subject: str = "") -> Unauthenticated:
    return Unauthenticated(Scheme.TOKEN, Hint.UNKNOWN, subject)


def test_all_are_counted_by_scheme_and_hint(clock: Clock) -> None:
    failed = FailedLogins(clock)
    for number in range(100):
        failed.note(f"ipv4:192.0.2.1:{number}", unknown())
    failed.note("ipv4:192.0.2.2:1", Unauthenticated(Scheme.JWT, Hint.EXPIRED, "jwt:k8s"))

    assert failed.counts == {("token", "unknown"): 100, ("jwt", "expired"): 1}


def test_the_first_is_logged_at_once_and_the_others_of_ten_seconds_as_one_line(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    failed = FailedLogins(clock)
    failed.note("ipv4:192.0.2.1:1", unknown("token:k3v9"))
    for _ in range(50):
        clock.now_s += 0.1
        failed.note("ipv4:192.0.2.1:2", unknown("token:k3v9"))
        failed.flush()
    assert lines(caplog) == [line("192.0.2.1", 1, subject="token:k3v9")]

    clock.now_s += 5
    failed.flush()
    failed.flush()
    assert lines(caplog)[1:] == [line("192.0.2.1", 50, subject="token:k3v9")]
    assert {record.name for record in caplog.records} == {"blockyard.audit"}


def test_a_peer_has_six_lines_a_minute_whatever_it_tries(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    failed = FailedLogins(clock)
    for _ in range(600):
        for hint in Hint:
            failed.note("ipv4:192.0.2.1:1", Unauthenticated(Scheme.JWT, hint))
        failed.flush()
        clock.now_s += 0.1
    assert len(lines(caplog)) == 6

    clock.now_s += 1
    failed.flush()
    assert 6 < len(lines(caplog)) <= 12
    for _ in range(100):
        clock.now_s += 10
        failed.flush()
    told = [each["times"] for each in lines(caplog)]
    assert sum(told) == 600 * len(Hint)  # late, and none is lost


def test_one_peer_does_not_take_the_lines_of_another(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    failed = FailedLogins(clock)
    for hint in Hint:
        failed.note("ipv4:192.0.2.1:1", Unauthenticated(Scheme.JWT, hint))
    failed.note("ipv4:192.0.2.2:1", unknown())

    assert lines(caplog)[-1] == line("192.0.2.2", 1)


def test_memory_is_bounded_and_quiet_peers_are_forgotten(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    failed = FailedLogins(clock)
    for number in range(3 * MAX_PEERS):
        failed.note(f"ipv6:%5B2001:db8::{number:x}%5D:1", unknown())
    assert len(failed._peers) == MAX_PEERS + 1
    assert failed.counts[("token", "unknown")] == 3 * MAX_PEERS
    assert len(lines(caplog)) == MAX_PEERS + 1

    for _ in range(3):
        clock.now_s += 60
        failed.flush()
    assert failed._peers == {}
    assert lines(caplog)[-1] == line(OTHERS, 2 * MAX_PEERS - 1)


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:192.0.2.1:5000", "192.0.2.1"),
        ("ipv6:[2001:db8::1]:5000", "2001:db8::1"),
        ("ipv6:%5B2001:db8::1%5D:5000", "2001:db8::1"),
        ("unix:/run/blockyard.sock", "unix"),
        ("unix:", "unix"),
        ("", OTHERS),
        ("unknown", OTHERS),
        ("ipv4:", "ipv4"),
        (f"ipv4:{'1' * 1000}:1", "1" * 64),
        ("ipv4:a\nb:1", "a\\nb"),
    ],
)
def test_a_peer_is_known_by_its_address_without_the_port(peer: str, host: str) -> None:
    assert host_of(peer) == host
