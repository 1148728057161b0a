"""Work in the background over one fleet after the other: a fleet that fails does not keep the others from theirs."""

import logging
from collections.abc import Awaitable

from blockyard_server.engine.failures import EngineFailure, FleetFormatTooNew, InvariantViolated, ShuttingDown
from blockyard_server.engine.store_protocol import StoreFailed

_log = logging.getLogger(__name__)


async def run_isolated(done: str, fleet: str, work: Awaitable[None]) -> None:
    """Waits for one fleet's work. What goes wrong with it is logged as not `done`; only ShuttingDown is raised."""
    try:
        await work
    except ShuttingDown:
        raise
    except InvariantViolated:
        _log.debug("fleet %s is halted and left as it is", fleet)
    except FleetFormatTooNew as newer:
        _log.debug("left to a newer server: %s", newer)
    except (EngineFailure, StoreFailed) as failure:
        _log.warning("fleet %s could not be %s; the next round tries again: %s", fleet, done, failure)
    except Exception:  # noqa: BLE001 - the others must not suffer from a fault over this one
        _log.exception("fleet %s could not be %s: unexpectedly", fleet, done)
