"""Opening a PostgreSQL: alone or several at once, what is refused and how, and that no password is ever said."""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import create_engine

from blockyard_server.app import StartRefused, running_server
from blockyard_server.engine.store_protocol import StoreFailed, StoreRefused
from blockyard_server.settings import Settings, SettingsRefused
from blockyard_server.store.migrate import OLDEST_SERVER_TABLE, SCHEMA_TABLE
from blockyard_server.store.postgres.store import OLDEST_POSTGRES, PostgresStore
from blockyard_server.store.postgres.triggers import POSTGRES_FUNCTIONS, POSTGRES_TRIGGERS
from blockyard_server.store.postgres.url import parse_url
from blockyard_server.store.postgres.writer_pool import WriterConnection
from blockyard_server.store.schema import metadata
from tests.harness.postgres import PASSWORD, Postgres
from tests.harness.process import free_port
from tests.store.story import Story


def definitions(url: str) -> set[str]:
    """Every function, trigger and index, as the database says it."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
            " UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal"
            " UNION ALL SELECT indexdef FROM pg_indexes"
            " WHERE schemaname = 'public' AND tablename NOT IN ('alembic_version', 'schema_version')"
        )
        return {str(text) for (text,) in found}


async def opened(url: str) -> PostgresStore:
    """An open store."""
    store = PostgresStore(url)
    await asyncio.to_thread(store.open)
    return store


async def test_the_migrated_schema_is_the_described_one(postgres: Postgres, database: str) -> None:
    await (await opened(database)).close()
    described = postgres.fresh_database()
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(described))
    with engine.begin() as connection:
        connection.exec_driver_sql("SET search_path = public, pg_temp")
        metadata.create_all(connection)
        for text in (*POSTGRES_FUNCTIONS.values(), *POSTGRES_TRIGGERS.values()):
            connection.exec_driver_sql(text.replace("%", "%%"))
    engine.dispose()
    migrated = definitions(database)
    assert migrated == definitions(described)
    assert len(migrated) > len(POSTGRES_FUNCTIONS) + len(POSTGRES_TRIGGERS)
    postgres.drop(described)


def is_on_postgresql(_: object, name: str | None, *_rest: object) -> bool:
    """Whether Alembic is to compare it: triggers do what this key does on SQLite, and the table is Alembic's own."""
    return name not in {"fk_held_blocks_instance", OLDEST_SERVER_TABLE}


async def test_alembic_finds_nothing_to_change(database: str) -> None:
    await (await opened(database)).close()
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": SCHEMA_TABLE, "include_object": is_on_postgresql}
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_every_trigger_and_function_has_the_name_it_is_listed_under() -> None:
    for name, text in POSTGRES_TRIGGERS.items():
        assert text.split()[:3] == ["CREATE", "TRIGGER", name]
    for name, text in POSTGRES_FUNCTIONS.items():
        assert text.split()[:3] == ["CREATE", "FUNCTION", f"{name}()"]


async def test_three_servers_open_one_empty_database_at_once(database: str) -> None:
    stores = await asyncio.gather(*(opened(database) for _ in range(3)))
    Story(stores[0]).begin(node_1=8)
    assert [list(store.fleet_sizes()) for store in stores] == [["gpu"]] * 3
    for store in stores:
        await store.close()


async def test_what_was_written_is_there_after_another_start(database: str) -> None:
    first = await opened(database)
    Story(first).begin(node_1=8)
    await first.close()
    again = await opened(database)
    with again.transaction("gpu") as transaction:
        assert transaction.head is not None
        assert transaction.head.revision == 2
    await again.close()


def refusal(open_it: Callable[[], object]) -> str:
    """What is said, which must be without the password."""
    with pytest.raises(StoreRefused) as refused:
        open_it()
    said = f"{refused.value!r} {refused.value} {refused.value.__cause__!r}"
    assert PASSWORD not in said
    return str(refused.value)


async def test_a_newer_schema_is_refused(database: str) -> None:
    await (await opened(database)).close()
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "newer version of Blockyard" in refusal(PostgresStore(database).open)


def test_a_database_of_another_program_is_refused(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE songs (name text)")
    assert "tables of another program" in refusal(PostgresStore(database).open)


def test_a_database_that_is_not_there_is_refused() -> None:
    url = f"postgresql://blockyard:{PASSWORD}@127.0.0.1:{free_port()}/blockyard"
    assert "Connection refused" in refusal(PostgresStore(url).open)


def test_a_wrong_password_is_refused_without_saying_it(database: str) -> None:
    wrong = database.replace(PASSWORD, "not-the-password")
    said = refusal(PostgresStore(wrong).open)
    assert "password authentication failed" in said
    assert "not-the-password" not in said


def test_an_old_postgres_is_refused(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WriterConnection, "server_version", OLDEST_POSTGRES - 1)
    assert "Blockyard needs 15 or newer" in refusal(PostgresStore(database).open)


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://blockyard:{PASSWORD}@host/name",
        f"postgresql:blockyard:{PASSWORD}@host/name",
        f"postgresql://blockyard:{PASSWORD}@host/name?colour=blue",
        f"postgresql://blockyard:{PASSWORD}@host:port:5432/na%zzme",
        f"postgresql://blockyard:pass@{PASSWORD}@host/name",
        f"postgresql://[blockyard:{PASSWORD}",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_quoting_it(url: str) -> None:
    assert "URL" in refusal(lambda: PostgresStore(url).open())


RAW_PASSWORDS = [
    *("12/s3cret", "ab/cdef", "s3c/r@et", "s3c@r/et", "s3c@r3t", "@s3cret", "s3cret@", "/s3cret", "s3cret/", "1/2/s3c"),
    *("s3c?r3t", "12?s3=cret", "12/s3?host=cret", "12/s3?user=cret", "12/s3?dbname=cret", "ab?password=cd@ef"),
    *("s3c%r3t", "s3cret%", "s3c%zzr3t", "s3c@[r3t", "12/s3#cret", "s3c@r3t:99/x?port=4", "12/s3%40cret"),
]
"""As people paste them into a URL, where they mean something else."""


@pytest.mark.parametrize("password", RAW_PASSWORDS)
@pytest.mark.parametrize("place", ["127.0.0.1:1/x", "127.0.0.1", "/x?host=one", "one,two:5432/x"])
def test_a_password_that_is_not_encoded_is_refused_with_nothing_of_it(password: str, place: str) -> None:
    """What is said is the same for all of them, so that nothing of any can be in it."""
    said = refusal(lambda: parse_url(f"postgresql://u:{password}@{place}"))
    assert said == refusal(lambda: parse_url("postgresql://@@"))
    assert "/ @ ? # % are written as %2F %40 %3F %23 %25" in said


@pytest.mark.parametrize("option", ["password=s3c@r3t", "sslpassword=@s3cret", "user=me&password=a@b"])
@pytest.mark.parametrize("place", ["host", "host/name", "host:5432"])
def test_a_password_among_the_options_that_is_not_encoded_is_refused(place: str, option: str) -> None:
    assert "cannot be read" in refusal(lambda: parse_url(f"postgresql://{place}?{option}"))


@pytest.mark.parametrize("place", ["host:s3cret/x", "host:s3cret", "host:12,other:s3cret/x", "host/x?port=s3cret"])
def test_a_port_that_is_no_number_is_refused_without_saying_it(place: str) -> None:
    assert "s3cret" not in refusal(lambda: parse_url(f"postgresql://{place}"))


@pytest.mark.parametrize("password", RAW_PASSWORDS)
def test_an_encoded_password_arrives_as_it_is(password: str) -> None:
    url = parse_url(f"postgresql://u:{quote(password, safe='')}@127.0.0.1:1/x?sslrootcert=/etc/ca.pem")
    assert conninfo_to_dict(url.conninfo)["password"] == password
    assert url.shown == "postgresql://u@127.0.0.1:1/x"
    again = parse_url(f"postgresql://[::1]:1/x?password={quote(password, safe='')}")
    assert conninfo_to_dict(again.conninfo)["password"] == password


def test_a_url_is_shown_without_its_password() -> None:
    url = parse_url(f"postgresql://me:{PASSWORD}@one:5432,two:5433/fleets?sslmode=require&passfile=x")
    assert url.shown == "postgresql://me@one:5432,two:5433/fleets"
    assert PASSWORD not in repr(url)


def test_what_the_url_says_counts_more_than_the_defaults() -> None:
    conninfo = parse_url("postgresql://host/name?connect_timeout=9&application_name=mine").conninfo
    assert "connect_timeout=9" in conninfo
    assert "application_name=mine" in conninfo
    assert "target_session_attrs=read-write" in conninfo


def test_settings_neither_show_the_password_nor_take_another_kind_of_database() -> None:
    settings = Settings(database=f"postgresql://me:{PASSWORD}@host:5432/name?password={PASSWORD}")
    assert PASSWORD not in repr(settings)
    assert settings.place == "postgresql://host:5432/name"
    with pytest.raises(SettingsRefused, match="database must begin with postgresql://") as refused:
        Settings(database=f"mysql://me:{PASSWORD}@host/name")
    assert PASSWORD not in str(refused.value)


async def test_a_server_whose_database_is_refused_does_not_start() -> None:
    for url in (f"postgresql://me:{PASSWORD}@127.0.0.1:{free_port()}/name", f"postgresql://me:a@{PASSWORD}@h/name"):
        with pytest.raises(StartRefused) as refused:
            async with running_server(Settings(listen="127.0.0.1:0", database=url)):
                pass
        assert PASSWORD not in str(refused.value)


async def test_a_closed_store_says_so(database: str) -> None:
    store = await opened(database)
    await store.close()
    with pytest.raises(StoreFailed, match="closed"), store.transaction("gpu"):
        pass
    with pytest.raises(StoreFailed, match="closed"):
        async with store.reader():
            pass


def test_of_several_hosts_the_one_that_takes_writes_is_used(postgres: Postgres, database: str) -> None:
    """The first one listed is not there."""
    listed = re.sub(r"@127.0.0.1:\d+/", f"@127.0.0.1:{free_port()},127.0.0.1:{postgres.port}/", database)
    store = PostgresStore(listed)
    store.open()
    assert list(store.fleet_sizes()) == []
    asyncio.run(store.close())


def test_many_threads_open_and_close_their_stores(database: str) -> None:
    def once(_: int) -> list[str]:
        store = PostgresStore(database)
        store.open()
        names = list(store.fleet_sizes())
        asyncio.run(store.close())
        return names

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(once, range(8))) == [[]] * 8
