"""A replay whose answers are lost sends its calls again: it goes on only where the order of the log is kept."""

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Final

import pytest

from blockyard import CallFailed, Client, PlacementStrategy
from blockyard._call import Operation, T
from blockyard.cli.failures import CommandFailed
from blockyard.cli.replay_drive import Replay, create_fresh_fleet
from blockyard.cli.replay_log import LoggedInstance, LoggedRequest, events_in_order
from blockyard.cli.replay_tally import ReplayFigures, ReplayTally
from tests.harness.process import ServerProcess

INSTANCES: Final = [LoggedInstance("a", 4, ""), LoggedInstance("b", 4, "")]


class DeafClient(Client):
    """Hears no answer to the first attempt of a batch, and sends it again, as the SDK does."""

    def batch(self, operations: Iterable[Operation[T]], *, timeout_s: float | None = None) -> list[T | CallFailed]:
        chosen = tuple(operations)
        super().batch(chosen, timeout_s=timeout_s)
        return super().batch(chosen, timeout_s=timeout_s)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ServerProcess(tmp_path_factory.mktemp("data")) as server:
        server.start()
        yield server.address


def request(row: int, blocks: int, *, arrival_s: int, duration_s: int) -> LoggedRequest:
    return LoggedRequest(
        row=row,
        request_id=f"r{row}",
        arrival_s=Decimal(arrival_s),
        duration_s=Decimal(duration_s),
        instances=1,
        blocks=blocks,
        exclusive=False,
        any_label=(),
        owner="o",
    )


TWO_GRANTED_AND_ONE_REFUSED: Final = [request(row, 3, arrival_s=row, duration_s=10) for row in range(3)]
ONE_AFTER_THE_OTHER: Final = [request(row, 4, arrival_s=2 * row, duration_s=1) for row in range(3)]


def play(client: Client, fleet: str, log: list[LoggedRequest], *, hold: bool) -> ReplayFigures:
    tally = ReplayTally(INSTANCES)
    create_fresh_fleet(client, fleet, INSTANCES, advance=lambda _: None)
    replay = Replay(client, fleet, tally, strategy=PlacementStrategy.BEST_FIT, batch_size=100, advance=lambda _: None)
    replay.play(events_in_order(log, hold=hold))
    return tally.figures()


def test_grants_and_refusals_that_are_told_again_are_counted_once(address: str) -> None:
    with Client(address) as client, DeafClient(address) as deaf:
        heard = play(client, "heard", TWO_GRANTED_AND_ONE_REFUSED, hold=True)
        unheard = play(deaf, "unheard", TWO_GRANTED_AND_ONE_REFUSED, hold=True)

    assert (heard.accepted, heard.refused) == (2, 1)
    assert unheard == heard


def test_a_release_in_the_batch_of_its_acquire_frees_what_was_granted_and_nothing_else(address: str) -> None:
    with Client(address) as client:
        figures = play(client, "freed", TWO_GRANTED_AND_ONE_REFUSED, hold=False)
        totals, report = client.describe("freed").totals, client.verify("freed")

    assert (figures.accepted, figures.refused) == (2, 1)
    assert (totals.busy_blocks, totals.idle_blocks, report.clean) == (0, 8, True)


@pytest.mark.parametrize("log", [TWO_GRANTED_AND_ONE_REFUSED, ONE_AFTER_THE_OTHER], ids=["refused", "granted"])
def test_a_batch_sent_twice_whose_order_may_have_changed_ends_the_replay(
    address: str, log: list[LoggedRequest]
) -> None:
    with DeafClient(address) as deaf, pytest.raises(CommandFailed, match="the order of the log may not have been kept"):
        play(deaf, f"broken-{len(log)}-{log[0].blocks}", log, hold=False)
