"""Failed logins: all are counted, few are logged. Strangers decide how many there are, and not how long the log is."""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from blockyard_server.rpc.audit_log import write_line
from blockyard_server.rpc.auth.authenticator import Unauthenticated

LINE_INTERVAL_S: Final = 10.0
"""Between two lines about the same peer, scheme and hint."""
WINDOW_S: Final = 60.0
MAX_LINES: Final = 6
"""About one peer, within the window."""
MAX_PEERS: Final = 1000
"""Peers that are told apart; all others are one."""
OTHERS: Final = "others"
MAX_PEER_LENGTH: Final = 64


@dataclass(slots=True)
class _Failures:
    """Of one peer with one scheme and hint."""

    waiting: int = 0
    """Not logged yet."""
    logged_s: float = float("-inf")
    subject: str = ""


@dataclass(slots=True)
class _Peer:
    failures: dict[tuple[str, str], _Failures] = field(default_factory=dict)
    lines_s: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_LINES))
    """When its last lines were written."""


class FailedLogins:
    """Counts and logs. For one thread."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        """By scheme and hint."""
        self._monotonic = monotonic
        self._peers: dict[str, _Peer] = {}

    def note(self, peer: str, refused: Unauthenticated) -> None:
        """One more. `peer` is as gRPC names it, `ipv4:192.0.2.1:5000`."""
        kind = (str(refused.scheme), str(refused.hint))
        self.counts[kind] += 1
        host = host_of(peer)
        if host not in self._peers and len(self._peers) >= MAX_PEERS:
            host = OTHERS
        entry = self._peers.setdefault(host, _Peer())
        failures = entry.failures.setdefault(kind, _Failures())
        failures.waiting += 1
        failures.subject = refused.subject
        self._log_if_due(host, entry, kind, failures)

    def flush(self) -> None:
        """Logs what has waited for long enough, and forgets peers that are quiet. Call it every few seconds."""
        now_s = self._monotonic()
        for host, entry in list(self._peers.items()):
            for kind, failures in entry.failures.items():
                if failures.waiting:
                    self._log_if_due(host, entry, kind, failures)
            quiet = not any(failures.waiting for failures in entry.failures.values())
            if quiet and (not entry.lines_s or now_s - entry.lines_s[-1] >= WINDOW_S):
                del self._peers[host]

    def _log_if_due(self, host: str, entry: _Peer, kind: tuple[str, str], failures: _Failures) -> None:
        now_s = self._monotonic()
        full = len(entry.lines_s) == MAX_LINES and now_s - entry.lines_s[0] < WINDOW_S
        if full or now_s - failures.logged_s < LINE_INTERVAL_S:
            return
        scheme, hint = kind
        subject = {"subject": failures.subject} if failures.subject else {}
        write_line(
            logging.WARNING, "login_refused", peer=host, scheme=scheme, hint=hint, **subject, times=failures.waiting
        )
        failures.waiting = 0
        failures.logged_s = now_s
        entry.lines_s.append(now_s)


def host_of(peer: str) -> str:
    """The peer without its port, which is another one for each connection."""
    kind, _, rest = peer.partition(":")
    if kind in {"ipv4", "ipv6"}:
        rest = rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
        return ascii(rest[:MAX_PEER_LENGTH]).strip("'") or kind
    return kind if kind == "unix" else OTHERS
