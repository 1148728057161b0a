"""Under overload the server begins no call whose answer would come too late, and says so at once."""

import asyncio
from typing import Any

import grpc
import pytest

from blockyard_server.domain.requests import Request
from blockyard_server.engine.asker import ANYBODY, Asker
from blockyard_server.rpc import load_shedding
from blockyard_server.rpc.load_shedding import MARGIN, MIN_UNDER_WAY
from tests.rpc.fake_service import FakeService
from tests.rpc.wire import Blockyard, acquire_request, refusal_of

SLOW_S = 0.3
LATE_S = SLOW_S * MARGIN / 2
"""A deadline that such calls do not meet under overload."""


class OverloadedService(FakeService):
    """Takes SLOW_S for each request, and holds those of some tokens until the end."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[str] = []
        self.let_go = asyncio.Event()
        self.crowded = asyncio.Event()

    async def submit(self, request: Request, asker: Asker = ANYBODY) -> Any:
        token = str(request.token_key[1]) if request.token_key else ""
        self.begun.append(token)
        if token.startswith("held"):
            if sum(one.startswith("held") for one in self.begun) == MIN_UNDER_WAY:
                self.crowded.set()
            await self.let_go.wait()
        else:
            await asyncio.sleep(SLOW_S)
        return await super().submit(request, asker)


@pytest.fixture
def service() -> FakeService:
    return OverloadedService()


async def test_a_call_that_cannot_be_answered_in_time_is_refused_at_once_and_never_begun(
    blockyard: Blockyard, service: OverloadedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_shedding, "HALF_LIFE_S", 3600.0)  # however slow this machine is
    await blockyard.make_fleet("gpu", "node-1", blocks=4096)
    acquire = blockyard.allocator.Acquire
    await asyncio.gather(*(acquire(acquire_request(f"usual-{n}")) for n in range(MIN_UNDER_WAY - 1)))
    held = [asyncio.ensure_future(acquire(acquire_request(f"held-{n}"))) for n in range(MIN_UNDER_WAY)]
    await service.crowded.wait()

    refusal = await refusal_of(acquire(acquire_request("late"), timeout=LATE_S))
    patient, endless = acquire(acquire_request("patient"), timeout=60), acquire(acquire_request("endless"))

    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert refusal.reason == "OVERLOADED"
    assert "RetryInfo" in refusal.details
    assert "late" not in service.begun
    assert (await patient).allocation.name
    assert (await endless).allocation.name
    service.let_go.set()
    await asyncio.gather(*held)
