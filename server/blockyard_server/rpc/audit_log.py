"""The audit log: a JSON line for each call that was denied, and for each call of an operator that changes or compares.

What schedulers change stands in the journal, in the same transaction as the change. This log has what the journal
cannot have: what did not happen, and who looked. No line has a token. Without identities there is no line.
"""

import json
import logging
from collections import Counter
from typing import Any, Final

from blockyard_server.domain.errors import NotOwner, NotPermitted, Refused
from blockyard_server.rpc.auth.principal import current_principal
from blockyard_server.rpc.interceptors import Context, Handler, Method

LOGGER: Final = "blockyard.audit"
DENIED: Final = (NotPermitted, NotOwner)
_WATCHED: Final = frozenset({"blockyard.v1.FleetAdmin", "blockyard.v1.Ledger"})
"""Services of operators. Their calls that change something are logged, and these:"""
_LOOKED: Final = frozenset({"Verify", "Repair"})

_log = logging.getLogger(LOGGER)


class AuditLog:
    """Writes the lines. Counts what was denied."""

    def __init__(self) -> None:
        self.denied: Counter[str] = Counter()
        """How many calls and operations were denied, by the permission that they took; `OWNER` for another tenant's."""

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
            self.denied[refusal.metadata.get("permission", "OWNER")] += 1
            _write("denied", rpc, reason=refusal.reason, **refusal.metadata)


def write_line(level: int, event: str, **more: object) -> None:
    """One line. Whoever calls this sees to it that there are not too many."""
    _log.log(level, "%s", json.dumps({"event": event, **more}, ensure_ascii=True))


def _write(event: str, rpc: str, **more: str) -> None:
    principal = current_principal()
    write_line(logging.INFO, event, **{"rpc": rpc, **more, "principal": principal.name, "via": principal.via})
