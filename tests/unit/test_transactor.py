"""One batch in one transaction: leases, catching up with other servers, what start-up and pruning do."""

import pytest

from blockyard_server.domain.answers import Grant, InstanceRecord, ReleaseAnswer, ReleaseOutcome
from blockyard_server.domain.errors import AllocationEnded, LeaseExpired, NoCapacity
from blockyard_server.domain.events import Event, Expired, LeasesExtended
from blockyard_server.domain.requests import DeleteFleet, Release, Renew, Request, UpdateInstance
from blockyard_server.engine import batch as batch_module
from blockyard_server.engine import memory as memory_module
from blockyard_server.engine.batch import RETRY_NEXT_BATCH, Outcome
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.failures import StoreUnavailable
from blockyard_server.engine.store_protocol import StoreFailed
from blockyard_server.engine.transactor import Transactor
from tests.unit.engine_stories import acquire, create, filled_store, once, register
from tests.unit.hooked_store import HookedStore

SECOND = 1_000_000


class Server:
    """A server's write side, without its thread."""

    def __init__(self, store: HookedStore, clock: ManualClock, *, grace_s: float = 0.0) -> None:
        self.store = store
        self.transactor = Transactor(store, clock, grace_s=grace_s)

    def ask(self, *requests: Request) -> list[Outcome]:
        """The outcomes of one batch."""
        return self.transactor.carry_out("gpu", requests)

    @property
    def last(self) -> Event:
        """The journal's last event."""
        return self.store.rows["gpu"].journal[-1]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def server(clock: ManualClock) -> Server:
    return Server(filled_store(), clock)


def test_a_batch_that_changes_nothing_writes_nothing(server: Server) -> None:
    (outcome,) = server.ask(acquire("a", 9))

    assert not isinstance(outcome, Grant)
    assert server.store.commits == []


def test_what_another_server_wrote_is_caught_up_from_the_journal(server: Server, clock: ManualClock) -> None:
    other = Server(server.store, clock)
    server.ask(acquire("a", 3))
    other.ask(acquire("b", 3), register("n2", 4))
    loads = list(server.store.loads)

    (c,) = server.ask(acquire("c", 4))
    (d,) = other.ask(acquire("d", 3))

    assert isinstance(c, Grant)
    assert isinstance(d, NoCapacity)
    assert c.view.allocation.placements == (("n2", (0, 1, 2, 3)),)
    assert server.store.loads == loads


def test_a_fleet_that_another_server_deleted_and_made_anew_is_caught_up_with(
    server: Server, clock: ManualClock
) -> None:
    server.ask(acquire("a"), Release("gpu", "slurm", token="a"))
    Server(server.store, clock).ask(DeleteFleet("gpu", force=True), create(), register("n9", 2))

    (grant,) = server.ask(acquire("b", 2))

    assert isinstance(grant, Grant)
    assert grant.view.allocation.placements == (("n9", (0, 1)),)


def test_memory_of_a_failed_commit_is_gone_even_if_another_server_made_as_many_revisions(
    server: Server, clock: ManualClock
) -> None:
    server.ask(acquire("first"))
    server.store.before_commit = once(StoreFailed("the disk is full"))
    with pytest.raises(StoreUnavailable):
        server.ask(acquire("a"))
    Server(server.store, clock).ask(acquire("x", 7))

    (refused,) = server.ask(acquire("b"))

    assert isinstance(refused, NoCapacity)


def test_whoever_is_too_far_behind_loads_the_fleet_anew(
    server: Server, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "MAX_CATCH_UP", 2)
    server.ask(acquire("a"))
    Server(server.store, clock).ask(*(acquire(f"b{n}") for n in range(3)))
    loads = len(server.store.loads)

    (grant,) = server.ask(acquire("c"))

    assert isinstance(grant, Grant)
    assert grant.view.allocation.placements == (("n1", (4,)),)
    assert len(server.store.loads) == loads + 1


def test_an_ended_lease_is_swept_before_anything_is_decided(server: Server, clock: ManualClock) -> None:
    server.ask(acquire("lease", 8, ttl_us=SECOND))
    clock.advance(SECOND - 1)
    (refused,) = server.ask(acquire("early"))
    clock.advance(1)
    (granted,) = server.ask(acquire("in time"))

    assert isinstance(refused, NoCapacity)
    assert isinstance(granted, Grant)


def test_that_a_lease_has_ended_is_durable_before_anybody_is_told(server: Server, clock: ManualClock) -> None:
    (held,) = server.ask(acquire("lease", ttl_us=SECOND))
    assert isinstance(held, Grant)
    clock.advance(SECOND)

    renewed, replayed, released = server.ask(
        Renew("gpu", held.revision), acquire("lease", ttl_us=SECOND), Release("gpu", "slurm", held.revision)
    )

    assert isinstance(renewed, LeaseExpired)
    assert isinstance(replayed, AllocationEnded)
    assert isinstance(released, ReleaseAnswer)
    assert released.outcome is ReleaseOutcome.ALREADY_EXPIRED
    assert isinstance(server.last, Expired)


@pytest.mark.parametrize("first", [Renew, Release], ids=["renewal first", "release first"])
def test_while_more_leases_are_due_than_one_sweep_takes_refusals_that_hang_on_them_wait(
    server: Server, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, first: type
) -> None:
    monkeypatch.setattr(batch_module, "MAX_EXPIRED_AT_ONCE", 2)
    held = server.ask(*(acquire(f"t{n}", ttl_us=SECOND) for n in range(3)))
    clock.advance(SECOND)
    last = held[-1]
    assert isinstance(last, Grant)

    if first is Renew:
        assert server.ask(Renew("gpu", last.revision)) == [RETRY_NEXT_BATCH]
        assert isinstance(server.ask(Renew("gpu", last.revision))[0], LeaseExpired)
    else:
        (answer,) = server.ask(Release("gpu", "slurm", last.revision))
        assert isinstance(answer, ReleaseAnswer)
        assert answer.outcome is ReleaseOutcome.ALREADY_EXPIRED
    server.transactor.expire_due("gpu")
    assert server.store.rows["gpu"].held == {}


def test_a_grant_that_does_not_hang_on_the_leases_still_to_be_swept_is_made_at_once(
    server: Server, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "MAX_EXPIRED_AT_ONCE", 2)
    server.ask(*(acquire(f"t{n}", ttl_us=SECOND) for n in range(4)))
    clock.advance(SECOND)

    small, wide, behind = server.ask(acquire("small"), acquire("wide", 7), acquire("behind"))

    assert isinstance(small, Grant)
    assert (wide, behind) == (RETRY_NEXT_BATCH, RETRY_NEXT_BATCH)


def test_the_sweep_says_whether_there_is_more(
    server: Server, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "MAX_EXPIRED_AT_ONCE", 2)
    server.ask(*(acquire(f"t{n}", ttl_us=SECOND) for n in range(3)))
    assert not server.transactor.expire_due("gpu")
    clock.advance(SECOND)

    assert server.transactor.expire_due("gpu")
    assert not server.transactor.expire_due("gpu")
    assert server.store.rows["gpu"].held == {}


def test_a_renewed_lease_is_not_swept_at_its_first_end(server: Server, clock: ManualClock) -> None:
    (held,) = server.ask(acquire("lease", ttl_us=SECOND))
    assert isinstance(held, Grant)
    clock.advance(SECOND // 2)
    server.ask(Renew("gpu", held.revision))
    clock.advance(SECOND // 2)

    server.transactor.expire_due("gpu")

    assert len(server.store.rows["gpu"].held) == 1


def test_after_a_restart_leases_get_a_bounded_grace_with_one_event(server: Server, clock: ManualClock) -> None:
    short, long, endless = server.ask(
        acquire("short", ttl_us=12 * SECOND), acquire("long", ttl_us=60 * SECOND), acquire("endless")
    )
    clock.advance(5 * SECOND)
    restarted = Server(server.store, clock, grace_s=10.0)

    restarted.transactor.extend_leases_on_takeover("gpu")
    assert isinstance(server.last, LeasesExtended)
    revision = server.last.revision
    restarted.transactor.extend_leases_on_takeover("gpu")
    assert server.last.revision == revision

    clock.advance(10 * SECOND - 1)
    restarted.transactor.expire_due("gpu")
    assert len(server.store.rows["gpu"].held) == 3
    clock.advance(1)
    restarted.transactor.expire_due("gpu")
    assert isinstance(short, Grant)
    assert isinstance(long, Grant)
    assert isinstance(endless, Grant)
    assert set(server.store.rows["gpu"].held.values()) == {long.revision, endless.revision}


def test_pruning_forgets_what_has_ended_and_nothing_that_is_held(server: Server) -> None:
    server.ask(acquire("held"), acquire("old"), Release("gpu", "slurm", token="old"))

    assert not server.transactor.prune("gpu", server.last.revision)

    rows = server.store.rows["gpu"]
    assert [allocation.token for allocation in rows.allocations.values()] == ["held"]
    (anew,) = server.ask(acquire("old"))
    assert isinstance(anew, Grant)
    assert not anew.replayed


def test_a_pinned_fleet_is_memory_and_evidence_at_one_revision(server: Server) -> None:
    server.ask(acquire("a", 3))

    snapshot = server.transactor.snapshot("gpu")

    assert snapshot.memory == {"n1": (8, 0b111)}
    assert snapshot.memory_revision == snapshot.evidence.revision == 3


def test_a_fleet_that_cannot_be_read_cannot_be_pinned(server: Server) -> None:
    server.store.before_begin = once(StoreFailed("no connection"))

    with pytest.raises(StoreUnavailable):
        server.transactor.snapshot("gpu")

    assert server.transactor.snapshot("gpu").memory == {"n1": (8, 0)}


def test_an_update_answers_the_blocks_that_are_busy(server: Server) -> None:
    server.ask(acquire("a", 3))

    (record,) = server.ask(UpdateInstance("gpu", "n1", {"total_blocks": 9}))

    assert isinstance(record, InstanceRecord)
    assert (record.fields.total_blocks, record.busy_blocks) == (9, 3)
