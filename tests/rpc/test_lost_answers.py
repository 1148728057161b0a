"""A client that goes away while it is answered costs a count, and no line of the log."""

import logging

import pytest

from blockyard_server.rpc.lost_answers import GRPC_LOGGER, LOST_ANSWERS
from tests.harness.http2 import RawConnection
from tests.harness.patience import eventually
from tests.rpc.wire import Blockyard, acquire_request, refusal_of

CLIENTS = 8
LIST_FLEETS = "/blockyard.v1.FleetAdmin/ListFleets"


async def test_clients_that_go_away_at_the_wrong_moment_fill_a_counter_and_not_the_log(
    blockyard: Blockyard, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    await blockyard.make_fleet("gpu")
    before = LOST_ANSWERS.count

    for _ in range(CLIENTS):
        # With a window of nothing the answer is on its way until the connection ends.
        connection = await RawConnection.open(address, window=0)
        async with connection:
            for _ in range(CLIENTS):
                connection.call(LIST_FLEETS)
            await connection.until_begun(CLIENTS)
            connection.abort()

    async def counted() -> bool:
        return LOST_ANSWERS.count > before

    await eventually(counted, "what could not be sent is counted")
    assert (await refusal_of(blockyard.allocator.Acquire(acquire_request(fleet="no")))).reason == "FLEET_NOT_FOUND"
    assert [record.getMessage() for record in caplog.records if record.name == GRPC_LOGGER] == []


def test_whatever_else_grpc_has_to_say_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    LOST_ANSWERS.install()
    log, before = logging.getLogger(GRPC_LOGGER), LOST_ANSWERS.count

    log.error("a plain line")
    log.error("an error", exc_info=RuntimeError("of another kind"))

    assert [record.getMessage() for record in caplog.records] == ["a plain line", "an error"]
    assert LOST_ANSWERS.count == before
