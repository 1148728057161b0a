"""Whatever search path a role, a database or a person has, the tables are those of one schema."""

import psycopg
import pytest
from alembic import command
from psycopg import sql
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from blockyard_server.engine.store_protocol import StoreRefused
from blockyard_server.store.migrate import OLDEST_SERVER_TABLE, _config
from blockyard_server.store.postgres.store import PostgresStore
from blockyard_server.store.schema import metadata
from tests.store.conftest import opened
from tests.store.story import Story

SHADOWS = ("fleets", "instances", "allocations", "held_blocks", "tokens", "journal", "fleet_ages", "servers", "origin")
LIES = """
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT timestamptz ''2001-01-01 00:00Z''';
CREATE FUNCTION evil.unnest(text[]) RETURNS SETOF text LANGUAGE sql AS 'SELECT ''a lie''';
CREATE FUNCTION evil.always(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.always);
"""
"""What a statement of ours would call, if it were looked for there first."""


def shadow(url: str, *tables: str, path: str = "evil, public, pg_catalog") -> None:
    """Gives the database another schema with empty tables of these names, which its search path names first."""
    name = sql.Identifier(url.rpartition("/")[2])
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("CREATE SCHEMA evil")
        for table in tables:
            db.execute(sql.SQL("CREATE TABLE evil.{0} (LIKE public.{0} INCLUDING ALL)").format(sql.Identifier(table)))
        db.execute(LIES)
        db.execute(sql.SQL("ALTER DATABASE {} SET search_path = ").format(name) + sql.SQL(path))


def rows_in(url: str, schema: str) -> int:
    """In all tables of this schema that are called as ours."""
    count = sql.SQL("SELECT count(*) FROM {}")
    with psycopg.connect(url, autocommit=True) as db:
        names = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (schema,)).fetchall()
        found = [db.execute(count.format(sql.Identifier(schema, str(name)))).fetchone() for (name,) in names]
    return sum(int(row[0]) for row in found if row)


async def use(store: PostgresStore, fleet: str) -> None:
    """Writes, reads, takes evidence and ends what it wrote, all of which must be of the fleet that it made."""
    story = Story(store, fleet).begin(node_1=8)
    held = story.grant(("node-1", (0, 1)))
    story.commit()
    async with store.reader() as reader:
        assert await reader.revision(fleet) == story.revision
    evidence = store.open_evidence(fleet)
    assert list(evidence.held_blocks()) == [("node-1", 0, held), ("node-1", 1, held)]
    evidence.close()
    await store.notify([fleet])
    story.release(held)
    story.commit()
    assert fleet in store.fleet_sizes()


@pytest.mark.parametrize("tables", [("fleets",), ("journal", "instances"), SHADOWS], ids=["one", "two", "all of ours"])
async def test_tables_that_a_search_path_puts_first_are_neither_read_nor_written(
    database: str, tables: tuple[str, ...]
) -> None:
    async with opened(PostgresStore(database)) as before:
        await use(before, "before")
        shadow(database, *tables)
        await use(before, "while it runs")
    async with opened(PostgresStore(database)) as after:
        assert list(after.fleet_sizes()) == ["before", "while it runs"]
        await use(after, "after")
    assert rows_in(database, "evil") == 0


async def test_temporary_tables_of_a_session_hide_nothing(database: str) -> None:
    async with opened(PostgresStore(database)) as store:
        await use(store, "before")
        line = store._pool.take()
        line.send([(f"CREATE TEMP TABLE {name} (LIKE public.{name})", ()) for name in SHADOWS])
        store._pool.give_back(line)
        await use(store, "after")
        hidden = line.send([(f"SELECT count(*) FROM pg_temp.{name}", ()) for name in SHADOWS])  # noqa: S608 - ours
        assert [answer.rows() for answer in hidden] == [[(0,)]] * len(SHADOWS)


@pytest.mark.parametrize("table", ["held_blocks", "instances", "fleets"])
async def test_triggers_hold_for_a_person_with_another_search_path(database: str, table: str) -> None:
    """As with psql: what is written by the full name counts where it is written."""
    async with opened(PostgresStore(database)) as store:
        story = Story(store).begin(node_1=8)
        held = story.grant(("node-1", (0, 1)))
        story.commit()
    shadow(database, table)
    with psycopg.connect(database) as person:
        if table == "fleets":
            person.execute("INSERT INTO evil.fleets SELECT * FROM public.fleets")
            person.execute("UPDATE evil.fleets SET compacted_revision = revision")
        person.execute(
            "INSERT INTO public.held_blocks (fleet, instance, block, allocation) VALUES ('gpu', 'node-1', 5, %s)",
            (held,),
        )
        assert person.execute("SELECT busy_blocks FROM public.instances").fetchone() == (3,)
        person.execute("DELETE FROM public.held_blocks WHERE block = 5")
        assert person.execute("SELECT busy_blocks FROM public.instances").fetchone() == (2,)
        with pytest.raises(psycopg.errors.IntegrityError, match="is held"), person.transaction():
            person.execute("UPDATE public.instances SET total_blocks = 1")
        with pytest.raises(psycopg.errors.IntegrityError, match="only below"):
            person.execute("DELETE FROM public.journal")


async def test_a_database_whose_tables_are_in_a_schema_of_their_own_goes_on_with_them(database: str) -> None:
    """As a role's search path made them; and goes on when that is taken away."""
    with psycopg.connect(database, autocommit=True) as db:
        db.execute("CREATE SCHEMA own")
    async with opened(PostgresStore(f"{database}?options=-csearch_path%3Down")) as store:
        Story(store).begin(node_1=8)
    assert rows_in(database, "own") > 0
    async with opened(PostgresStore(database)) as store:
        assert list(store.fleet_sizes()) == ["gpu"]
        assert not store.made_new


async def test_a_database_of_an_earlier_release_in_a_schema_of_its_own_is_upgraded_there(database: str) -> None:
    """Its triggers were made without a search path of their own."""
    with psycopg.connect(database, autocommit=True) as db:
        db.execute("CREATE SCHEMA own")
    engine = create_engine(
        f"{database.replace('postgresql://', 'postgresql+psycopg://')}?options=-csearch_path%3Down", poolclass=NullPool
    )
    with engine.begin() as connection:
        config = _config()
        config.attributes["connection"] = connection
        config.attributes["version_table"] = OLDEST_SERVER_TABLE
        command.upgrade(config, "0005")
    with psycopg.connect(database, autocommit=True) as db:
        db.execute("SET search_path = own")
        db.execute(
            "INSERT INTO fleets (fleet, revision, next_order, deleted, labels, default_placement_strategy,"
            " config_revision, create_time_us, update_time_us) VALUES ('old', 0, 1, 0, '{}', 'BEST_FIT', 0, 1, 1)"
        )
    async with opened(PostgresStore(database)) as store:
        assert list(store.fleet_sizes()) == ["old"]
        await use(store, "new")
    with psycopg.connect(database) as db:
        found = db.execute("SELECT DISTINCT proconfig FROM pg_proc WHERE pronamespace = 'own'::regnamespace").fetchall()
    assert found == [(['search_path="own", pg_temp'],)]


async def test_of_two_schemas_with_all_tables_one_must_be_named(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as db:
        db.execute('CREATE SCHEMA "an ""other"""')
    async with opened(PostgresStore(database, schema="public")) as store:
        Story(store, "here").begin(node_1=8)
    async with opened(PostgresStore(database, schema='an "other"')) as store:
        Story(store, "there").begin(node_1=8)
    with pytest.raises(StoreRefused, match=r'more than one schema \(an "other", public\).*--database-schema'):
        PostgresStore(database).open()
    for schema, fleet in (("public", "here"), ('an "other"', "there")):
        async with opened(PostgresStore(database, schema=schema)) as store:
            assert list(store.fleet_sizes()) == [fleet]


@pytest.mark.parametrize(
    ("prepare", "schema", "said"),
    [
        ("SELECT 1", "nowhere", "has no schema 'nowhere'"),
        ("DROP SCHEMA public", "", "none of the search path exists"),
    ],
)
def test_a_schema_that_is_not_there_is_refused(database: str, prepare: str, schema: str, said: str) -> None:
    with psycopg.connect(database, autocommit=True) as db:
        db.execute(prepare.encode())
    with pytest.raises(StoreRefused, match=said):
        PostgresStore(database, schema=schema).open()


def test_every_table_is_shadowed_here() -> None:
    assert set(SHADOWS) == set(metadata.tables)
