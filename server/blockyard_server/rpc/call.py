"""What is known of the call that is under way, for those who count it and who log it: one for each call's task."""

from contextvars import ContextVar
from typing import Final


class Call:
    """Made anew for each call, so it has to be cheap."""

    __slots__ = ("reason",)

    def __init__(self) -> None:
        self.reason = ""
        """Of the error that it was answered with; empty for none."""


_call: Final[ContextVar[Call | None]] = ContextVar("call", default=None)

begin: Final = _call.set
"""From now on this is the call of the present task."""
current_call: Final = _call.get
"""The call of the present task; None outside of one."""
