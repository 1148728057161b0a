"""The audit log: a JSON line for each call that was denied, and for each call of an operator that changes or compares.

What schedulers change stands in the journal, in the same transaction as the change. This log has what the journal
cannot have: what did not happen, and who looked. No line has a token. Without identities there is no line.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from blockyard_server.domain.errors import NotOwner, NotPermitted, Refused
from blockyard_server.rpc.auth.principal import current_principal
from blockyard_server.rpc.interceptors import Context, Handler, Method

LOGGER: Final = "blockyard.audit"
MAX_DENIALS_PER_S: Final = 10
"""Lines about what one principal was denied, in a second; how many more there were is one line."""
OWNER: Final = "OWNER"
"""In the place of a permission: it takes the allocation's own tenant."""
DENIED: Final = (NotPermitted, NotOwner)
_WATCHED: Final = frozenset({"blockyard.v1.FleetAdmin", "blockyard.v1.Ledger"})
"""Services of operators. Their calls that change something are logged, and these:"""
_LOOKED: Final = frozenset({"Verify", "Repair"})

_log = logging.getLogger(LOGGER)


class AuditLog:
    """Writes the lines. Counts what was denied."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self.denied: Counter[str] = Counter()
        """How many calls and operations were denied, by the permission that they took; `OWNER` for another tenant's."""
        self._monotonic_s = monotonic_s
        self._second = 0
        self._lines: Counter[str] = Counter()
        """Denials of this second, by principal."""

    def intercept(self, method: Method, proceed: Handler) -> Handler:
        """As `Interceptor` says."""
        is_logged = method.service in _WATCHED and (method.changes or method.name in _LOOKED)

        async def logged(incoming: Any, context: Context) -> Any:
            try:
                answer = await proceed(incoming, context)
            except DENIED as refusal:
                self.note_denial(method.name, refusal)
                raise
            if is_logged and current_principal().is_known:
                _write("done", method.name)
            return answer

        return logged

    def note_denial(self, rpc: str, refusal: Refused) -> None:
        """A call, or one operation of a Batch, was denied."""
        if isinstance(refusal, DENIED):
            self.denied[refusal.metadata.get("permission", OWNER)] += 1
            if self._has_room(current_principal().name):
                _write("denied", rpc, reason=refusal.reason, **refusal.metadata)

    def _has_room(self, principal: str) -> bool:
        """Whether a denial of this principal is a line of its own. What is too many is one line, a second later."""
        second = int(self._monotonic_s())
        if second != self._second:
            for name, times in self._lines.items():
                if times > MAX_DENIALS_PER_S:
                    write_line(logging.INFO, "denied_more", principal=name, times=times - MAX_DENIALS_PER_S)
            self._second = second
            self._lines.clear()
        self._lines[principal] += 1
        return self._lines[principal] <= MAX_DENIALS_PER_S


def write_line(level: int, event: str, **more: object) -> None:
    """One line. The caller limits how many there are."""
    _log.log(level, "%s", json.dumps({"event": event, **more}, ensure_ascii=True))


def _write(event: str, rpc: str, **more: str) -> None:
    principal = current_principal()
    write_line(logging.INFO, event, **{"rpc": rpc, **more, "principal": principal.name, "via": principal.via})
