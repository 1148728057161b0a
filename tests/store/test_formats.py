"""What a database says of the formats of its fleets, of its servers, and of who may work on its schema."""

import ast
import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.script import Script, ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from blockyard_server.domain.answers import EventFilter
from blockyard_server.domain.formats import Formats
from blockyard_server.engine.clock import SystemClock
from blockyard_server.engine.counts import Counts
from blockyard_server.engine.failures import FleetFormatTooNew, InvariantViolated
from blockyard_server.engine.formats import LIVE_US
from blockyard_server.engine.reads import Reads
from blockyard_server.engine.store_protocol import InvariantBroken, ServerRow, Store
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.verify import audit
from blockyard_server.store.migrate import _config, is_expansion
from blockyard_server.store.postgres.store import PostgresStore
from blockyard_server.store.sqlite.store import SqliteStore
from tests.store.conftest import ALSO_IN_MEMORY, opened
from tests.store.story import Story


def execute(store: Store, statement: str) -> None:
    """As somebody beside the server."""
    if isinstance(store, SqliteStore):
        with closing(sqlite3.connect(store.path, isolation_level=None)) as db:
            db.execute(statement)
    else:
        assert isinstance(store, PostgresStore)
        with psycopg.connect(store._url.conninfo, autocommit=True) as pg:
            pg.execute(statement.encode())


@ALSO_IN_MEMORY
async def test_a_fleets_format_is_in_its_row(story: Story) -> None:
    with story.store.transaction("gpu") as transaction:
        assert transaction.head is not None
        assert transaction.head.format == 1
        transaction.raise_format(2)
    with story.store.transaction("gpu") as transaction:
        assert transaction.head is not None
        assert transaction.head.format == 2
        assert transaction.head.record is not None
        assert transaction.head.record.format == 2
    async with story.store.reader() as reader:
        assert await reader.fleets_below_format(2, 10) == []
        assert await reader.fleets_below_format(3, 10) == ["gpu"]
        assert await reader.formats() == (2, 2)
        bounds = await reader.journal_bounds("gpu")
        assert bounds is not None
        assert bounds.format == 2


@ALSO_IN_MEMORY
def test_a_format_never_goes_down(story: Story) -> None:
    with story.store.transaction("gpu") as transaction:
        transaction.raise_format(3)
    with pytest.raises(InvariantBroken, match="not below it"), story.store.transaction("gpu") as transaction:
        transaction.raise_format(3)


async def test_without_fleets_there_are_no_formats(store: Store) -> None:
    async with store.reader() as reader:
        assert await reader.formats() is None


def test_an_event_of_an_unknown_kind_halts_no_fleet_of_a_newer_format(story: Story) -> None:
    """The same event in a fleet of a known format is damage, and halts it."""
    story.commit()
    counts = Counts()
    transactor = Transactor(story.store, SystemClock(), counts=counts)
    behind = Transactor(story.store, SystemClock(), counts=counts)
    behind.load("gpu")
    columns = "fleet, revision, time_us, kind, body"
    execute(story.store, f"INSERT INTO journal ({columns}) SELECT fleet, revision + 1, 1, 'MOVED', '{{}}' FROM fleets")  # noqa: S608 - a constant
    execute(story.store, "UPDATE fleets SET revision = revision + 1, format = 3")
    for work in (transactor.refresh_clock, transactor.snapshot, transactor.expire_due):
        with pytest.raises(FleetFormatTooNew):
            work("gpu")
    assert transactor.snapshot_slice("gpu", "", 10) is None
    assert halts(counts) == 0
    execute(story.store, "UPDATE fleets SET format = 1")
    assert not audit("gpu", transactor.snapshot("gpu")).clean
    with pytest.raises(InvariantViolated):
        behind.refresh_clock("gpu")
    assert halts(counts) == 1


async def test_a_read_that_meets_an_unknown_kind_says_whether_the_fleet_is_newer_or_damaged(story: Story) -> None:
    story.commit()
    columns = "fleet, revision, time_us, kind, body"
    execute(story.store, f"INSERT INTO journal ({columns}) SELECT fleet, revision + 1, 1, 'MOVED', '{{}}' FROM fleets")  # noqa: S608 - a constant
    execute(story.store, "UPDATE fleets SET revision = revision + 1")
    reads = Reads(story.store, Formats())

    async def events() -> object:
        return await reads.run(lambda reader: reader.events("gpu", EventFilter(), after=0, limit=100), "gpu")

    with pytest.raises(InvariantViolated):
        await events()
    execute(story.store, "UPDATE fleets SET format = 3")
    with pytest.raises(FleetFormatTooNew):
        await events()


def halts(counts: Counts) -> int:
    """How often a fleet was halted; asked in a function, because mypy takes two looks at a field for one."""
    return counts.halts


async def test_servers_on_one_postgresql_see_each_others_signs_of_life(postgres_store: PostgresStore) -> None:
    url = postgres_store._url.conninfo
    own, other = ServerRow("a", "0.1", 1), ServerRow("b", "0.2", 2, holds_format=True)
    async with opened(PostgresStore(url_of(url))) as second:
        assert [row.server for row in await postgres_store.heartbeat(own)] == ["a"]
        seen = await second.heartbeat(other)
        assert [(row.server, row.version, row.newest_format, row.holds_format) for row in seen] == [
            ("a", "0.1", 1, False),
            ("b", "0.2", 2, True),
        ]
        assert all(0 <= row.silent_us < LIVE_US for row in seen)
        execute(postgres_store, "UPDATE servers SET seen_us = seen_us - 70000000 WHERE server = 'a'")
        silent = {row.server: row.silent_us for row in await second.heartbeat(other)}
        assert silent["a"] > LIVE_US > silent["b"]
        await second.deregister("b")
        assert [row.server for row in await postgres_store.heartbeat(own)] == ["a"]
        execute(postgres_store, "UPDATE servers SET seen_us = 0")
        assert [row.server for row in await second.heartbeat(other)] == ["b"], "one that was silent for a day is gone"


def url_of(conninfo: str) -> str:
    """The URL of a connection string that a store made out of one."""
    parts = psycopg.conninfo.conninfo_to_dict(conninfo)
    return f"postgresql://{parts['user']}:{parts.get('password', '')}@{parts['host']}:{parts['port']}/{parts['dbname']}"


def versions_of(path: Path) -> tuple[str, str]:
    """What the schema is, and the oldest revision that a server must know to work on it."""
    with closing(sqlite3.connect(path)) as db:
        [schema] = db.execute("SELECT version_num FROM schema_version").fetchone()
        [oldest] = db.execute("SELECT version_num FROM alembic_version").fetchone()
    return schema, oldest


async def test_servers_of_release_0_1_0_may_still_work_on_the_schema(tmp_path: Path) -> None:
    """That release looks at alembic_version alone, and takes 0007 for the newest there is."""
    path = tmp_path / "data.db"
    async with opened(SqliteStore(path)) as store:
        assert store.made_new
    schema, oldest = versions_of(path)
    assert schema == ScriptDirectory.from_config(_config()).get_current_head()
    assert oldest == "0007"


async def test_a_schema_that_a_newer_release_has_expanded_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    async with opened(SqliteStore(path)) as store:
        Story(store).begin(node_1=8)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("ALTER TABLE instances ADD COLUMN later TEXT")
        db.execute("UPDATE schema_version SET version_num = '9999'")
    async with opened(SqliteStore(path)) as store:
        story = Story(store)
        with store.transaction("gpu") as transaction:
            assert transaction.head is not None
            story.revision = transaction.head.revision
        story.grant(("node-1", (0,)))
        story.commit()
    assert versions_of(path) == ("9999", "0007")


def scripts() -> list[Script]:
    """The migrations, the oldest first."""
    return list(ScriptDirectory.from_config(_config()).walk_revisions())[::-1]


BEFORE_THE_RULE = "0007"
"""Up to here, servers of different releases were not meant to work side by side."""


@pytest.mark.parametrize("script", scripts(), ids=lambda script: script.revision)
def test_a_migration_expands_or_says_what_it_contracts(script: Script) -> None:
    """A contraction names the release that needs what goes no more: two releases after the one that used it last."""
    if script.revision <= BEFORE_THE_RULE:
        return
    phase = script.module.phase
    assert phase in {"expand", "contract"}
    assert is_expansion(script) is (phase == "expand")
    found = forbidden_in(Path(script.path).read_text(encoding="utf-8"))
    if phase == "contract":
        assert script.module.unused_since, "the release that stopped using what goes"
    else:
        assert not found, "servers of the last release would miss it"


NEVER_IN_AN_EXPANSION = ("DROP ", "RENAME ", " TYPE ", "ALTER COLUMN", "SET NOT NULL")
OPERATIONS = {"drop_column", "drop_table", "drop_index", "drop_constraint", "alter_column", "rename_table"}


def forbidden_in(text: str) -> list[str]:
    """What servers of the last release do not survive: calls of Alembic's, words of SQL, columns without a default."""
    found: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            found += [name] if name in OPERATIONS else []
            if name == "add_column" and not _has_default_or_null(node):
                found.append(f"line {node.lineno}: a column that is not null, without a default")
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not _is_docstring(node.value):
            found += [word for word in NEVER_IN_AN_EXPANSION if word in node.value.upper()]
    return found


def _has_default_or_null(add_column: ast.Call) -> bool:
    column = add_column.args[1]
    assert isinstance(column, ast.Call)
    given = {keyword.arg: keyword.value for keyword in column.keywords}
    nullable = given.get("nullable")
    return (
        "server_default" in given or nullable is None or (isinstance(nullable, ast.Constant) and nullable.value is True)
    )


def _is_docstring(text: str) -> bool:
    return text.rstrip().endswith(".")


@pytest.mark.parametrize(
    "statement",
    [
        'op.drop_column("fleets", "labels")',
        'op.execute("ALTER TABLE fleets DROP COLUMN labels")',
        'op.execute("ALTER TABLE fleets RENAME TO f")',
        'op.execute("ALTER TABLE fleets ALTER COLUMN labels TYPE jsonb")',
        'op.alter_column("fleets", "labels", nullable=True)',
        'op.add_column("fleets", sa.Column("owner", sa.Text, nullable=False))',
    ],
)
def test_the_rule_finds_what_it_forbids(statement: str) -> None:
    assert forbidden_in(f"def upgrade():\n    {statement}\n")


def test_the_rule_allows_what_servers_of_the_last_release_do_not_notice() -> None:
    added = 'op.add_column("fleets", sa.Column("owner", sa.Text, nullable=False, server_default=sa.text("0")))'
    assert not forbidden_in(f'def upgrade():\n    """Adds a column, and does not drop one."""\n    {added}\n')


def test_a_running_transaction_only_delays_a_migration(postgres_database_at_0007: str) -> None:
    """A migration waits for a table no longer than others wait behind it, and is tried again."""

    async def start() -> None:
        store = PostgresStore(postgres_database_at_0007)
        await asyncio.to_thread(store.open)
        await store.close()

    async def story() -> None:
        with psycopg.connect(postgres_database_at_0007) as other:
            other.execute("SELECT 1 FROM fleets")
            starting = asyncio.create_task(start())
            await asyncio.sleep(3.0)  # longer than one attempt waits
            assert not starting.done()
        await asyncio.wait_for(starting, 30)

    asyncio.run(story())
    with psycopg.connect(postgres_database_at_0007) as db:
        assert db.execute("SELECT count(*) FROM servers").fetchone() == (0,)


@pytest.fixture
def postgres_database_at_0007(database: str) -> str:
    """As release 0.1.0 has left it."""
    engine = create_engine(database.replace("postgresql://", "postgresql+psycopg://"), poolclass=NullPool)
    with engine.begin() as connection:
        config = _config()
        config.attributes["connection"] = connection
        config.attributes["version_table"] = "alembic_version"
        command.upgrade(config, "0007")
    return database
