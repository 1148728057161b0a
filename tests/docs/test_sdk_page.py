"""docs/how-to/use-the-sdk.md is complete: each method of the clients, each exception; what it names is there."""

import re

import blockyard
from blockyard import AsyncClient, BlockyardError, CallFailed, Client
from blockyard.errors import BY_REASON
from tests.docs.page_runner import ROOT

PAGE = (ROOT / "docs" / "how-to" / "use-the-sdk.md").read_text(encoding="utf-8")


def methods_of(client: type) -> set[str]:
    return {name for name in dir(client) if not name.startswith("_")}


def caught_in_the_table() -> set[str]:
    """The classes in the first column of the table of errors."""
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([A-Z]\w+)`", row)}


def test_the_page_names_every_method_of_the_clients() -> None:
    assert methods_of(Client) == methods_of(AsyncClient)
    assert methods_of(Client) - set(re.findall(r"\w+", PAGE)) == set()


def test_the_page_says_what_to_do_about_every_exception_of_a_reason() -> None:
    caught = caught_in_the_table()

    for kind in BY_REASON.values():
        ancestors = kind.__mro__[: kind.__mro__.index(CallFailed)]
        assert caught & {ancestor.__name__ for ancestor in ancestors}


def test_every_class_that_the_table_of_errors_names_is_there() -> None:
    caught = caught_in_the_table()

    assert caught
    assert all(issubclass(getattr(blockyard, name), BlockyardError) for name in caught)
