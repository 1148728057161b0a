"""`blockyard` with a fault: a description may be half a second old, as if it came from a cache or a replica."""

import sys
import time
from typing import Any, Final

from blockyard.cli import main
from blockyard_server.engine.engine import Engine

STALE_S: Final = 0.5

_right = Engine.describe
_seen: dict[Any, tuple[float, Any]] = {}


async def _describe(self: Engine, fleet: str, **which: Any) -> Any:
    key = (fleet, *which.items())
    at, snapshot = _seen.get(key, (0.0, None))
    if time.monotonic() > at + STALE_S:
        at, snapshot = time.monotonic(), await _right(self, fleet, **which)
        _seen[key] = (at, snapshot)
    return snapshot


if __name__ == "__main__":
    Engine.describe = _describe  # type: ignore[method-assign]  # the fault
    sys.exit(main())
