"""The words that calls and answers choose from. Each value is its own name, as in the protos."""

from enum import StrEnum


class PlacementStrategy(StrEnum):
    """How an instance is chosen among those that fit. Exact to the tie; `order` is that of registration."""

    FIRST_FIT = "FIRST_FIT"
    """The lowest order."""
    BEST_FIT = "BEST_FIT"
    """The fewest idle blocks, then the lowest order. Keeps large holes free."""
    WORST_FIT = "WORST_FIT"
    """The most idle blocks, then the lowest order. Spreads the load."""


class AllocationState(StrEnum):
    """Where an allocation is in its life. A state other than HELD is final."""

    HELD = "HELD"
    """The holder has the blocks."""
    RELEASED = "RELEASED"
    """It was released."""
    EXPIRED = "EXPIRED"
    """Its lease ran out."""


class InstanceState(StrEnum):
    """Whether an instance takes new grants. What is held stays held in each state."""

    ACTIVE = "ACTIVE"
    """Takes new grants."""
    CORDONED = "CORDONED"
    """Takes no new grants."""
    OFFLINE = "OFFLINE"
    """Not reachable: takes no new grants, and its allocations are flagged (`Allocation.offline_instances`)."""


class ReleaseOutcome(StrEnum):
    """The cases that repeating a release tells apart. Each is a success."""

    RELEASED = "RELEASED"
    """This call freed at least one block."""
    ALREADY_RELEASED = "ALREADY_RELEASED"
    """All of it had been released before."""
    ALREADY_EXPIRED = "ALREADY_EXPIRED"
    """The lease had run out before, and the blocks are free."""
    CANCELLED_BEFORE_GRANT = "CANCELLED_BEFORE_GRANT"
    """The token was not known; it is cancelled, and a late acquire with it is refused."""


class DescribeView(StrEnum):
    """How much `describe` says of each instance."""

    BASIC = "BASIC"
    """The counts."""
    FULL = "FULL"
    """Also which allocation and holder has each block."""


class Operator(StrEnum):
    """How a selector's expression compares a label."""

    IN = "IN"
    """The key is there, with one of the values."""
    NOT_IN = "NOT_IN"
    """The key is not there, or with none of the values."""
    EXISTS = "EXISTS"
    """The key is there; no values."""
    DOES_NOT_EXIST = "DOES_NOT_EXIST"
    """The key is not there; no values."""


class EventKind(StrEnum):
    """What an event of the journal says."""

    FLEET_CREATED = "FLEET_CREATED"
    """The fleet was made. Sets `fleet`."""
    FLEET_UPDATED = "FLEET_UPDATED"
    """The fleet's own fields changed. Sets `fleet`."""
    FLEET_DELETED = "FLEET_DELETED"
    """The fleet was deleted, with its instances."""
    INSTANCE_CREATED = "INSTANCE_CREATED"
    """An instance was registered. Sets `instance`, `instance_after`."""
    INSTANCE_UPDATED = "INSTANCE_UPDATED"
    """An instance's own fields changed. Sets `instance`, `instance_after`."""
    INSTANCE_DELETED = "INSTANCE_DELETED"
    """An instance was removed. Sets `instance`."""
    GRANTED = "GRANTED"
    """Blocks were granted. Sets `allocation`, `holder`, `idempotency_token`, `placements`, `expire_time`."""
    RELEASED = "RELEASED"
    """The blocks in `placements` were released. Sets `allocation`, `holder`, `ended`."""
    RENEWED = "RENEWED"
    """A lease was extended. Sets `allocation`, `holder`, `expire_time`."""
    EXPIRED = "EXPIRED"
    """A lease ran out, and the blocks in `placements` are free. Sets `allocation`, `holder`, `ended`."""
    TOKEN_CANCELLED = "TOKEN_CANCELLED"
    """A release by token came before its acquire. Sets `idempotency_token`."""
    LEASES_EXTENDED = "LEASES_EXTENDED"
    """After a restart, leases that would have ended before `expire_time` were extended to it."""
    REPAIRED = "REPAIRED"
    """A repair changed records so that they agree. Sets `corrections`."""
    RESTORED = "RESTORED"
    """The fleet goes on from a backup. Its revision is far above all that were there before."""
    UNKNOWN = "UNKNOWN"
    """A kind that only a newer SDK can name. Never an argument."""


class CorrectionKind(StrEnum):
    """What `repair` changes."""

    COUNTER_SET = "COUNTER_SET"
    """An instance's counter of busy blocks, from `before` to `after`."""
    BLOCK_FREED = "BLOCK_FREED"
    """A held block that no live allocation has is freed; it was said to be `allocation`'s."""
    BLOCK_HELD = "BLOCK_HELD"
    """A block that `allocation` has is held for it again."""
    TOKEN_RECORDED = "TOKEN_RECORDED"
    """The idempotency token of `allocation` is recorded again."""
    JOURNAL_RECONCILED = "JOURNAL_RECONCILED"
    """From here on the journal gives the block to `allocation`, or to nobody, as the records do."""
    SHAPE_RECONCILED = "SHAPE_RECONCILED"
    """From here on the journal gives the instance `after` blocks, as its record does; 0: it is not there."""
    MEMORY_RELOADED = "MEMORY_RELOADED"
    """The server reads the instance again; no record changes."""
    JOURNAL_SETTLED = "JOURNAL_SETTLED"
    """What is missing or contradicts itself in the journal, at `before` places, is left behind."""
    UNKNOWN = "UNKNOWN"
    """A change that only a newer SDK can name."""


class Check(StrEnum):
    """Which of `verify`'s comparisons failed."""

    COUNTER = "COUNTER"
    """An instance's counter of busy blocks against its held blocks."""
    HELD_BLOCKS = "HELD_BLOCKS"
    """A held block against the live allocation that it should belong to."""
    JOURNAL = "JOURNAL"
    """The held blocks against what the journal's replay says."""
    MEMORY = "MEMORY"
    """The held blocks against the server's memory."""
    TOKEN = "TOKEN"
    """An allocation against its idempotency token's record."""
    UNKNOWN = "UNKNOWN"
    """A comparison that only a newer SDK can name."""


class Permission(StrEnum):
    """What a principal may do on a fleet (`Client.can_i`)."""

    READ = "READ"
    """See the fleet, its instances and which blocks are busy."""
    READ_HOLDERS = "READ_HOLDERS"
    """See who holds what, also other tenants: holders, tokens, annotations."""
    ACQUIRE = "ACQUIRE"
    """Acquire; renew and release what the own tenant holds."""
    RELEASE_ANY = "RELEASE_ANY"
    """Release what another tenant holds. Nobody renews for another tenant."""
    INSTANCES = "INSTANCES"
    """Create, update, cordon and delete instances."""
    VERIFY = "VERIFY"
    """Have the records of a fleet compared."""
    PLAN_REPAIR = "PLAN_REPAIR"
    """See what a repair would change."""
    REPAIR = "REPAIR"
    """Have a repair carried out."""
    FLEETS = "FLEETS"
    """Create, update and delete fleets."""
