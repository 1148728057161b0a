"""An option that is given, but empty, and a name of something else, against a real server."""

import pytest

from blockyard import Client
from tests.cli.conftest import CommandLine

EMPTY_OPTIONS = {
    "release": ["release", "{held}", "--holder", ""],
    "release a token": ["release", "--fleet", "{fleet}", "--token", ""],
    "release of a caller": ["release", "--fleet", "{fleet}", "--token", "t-1", "--caller", ""],
    "release by token": ["release", "--fleet", "{fleet}", "--token", "t-1", "--holder", ""],
    "release without a fleet": ["release", "--fleet", "", "--token", "t-1"],
    "release fence": ["release", "{held}", "--fencing-token", "0"],
    "renew": ["renew", "{held}", "--holder", ""],
    "renew fence": ["renew", "{held}", "--fencing-token", "0"],
    "allocations of a holder": ["allocations", "{fleet}", "--holder", ""],
    "allocations in a state": ["allocations", "{fleet}", "--state", ""],
    "allocations on an instance": ["allocations", "{fleet}", "--instance", ""],
    "events of a holder": ["events", "{fleet}", "--holder", ""],
    "events on an instance": ["events", "{fleet}", "--instance", ""],
    "events of a kind": ["events", "{fleet}", "--kind", ""],
    "watch of a holder": ["watch", "{fleet}", "--limit", "1", "--holder", ""],
    "watch on an instance": ["watch", "{fleet}", "--limit", "1", "--instance", ""],
    "acquire for a caller": ["acquire", "--fleet", "{fleet}", "--caller", ""],
    "acquire on an instance": ["acquire", "--fleet", "{fleet}", "--on", ""],
    "update a fleet": ["fleet", "update", "{fleet}", "--no-labels", "--etag", ""],
    "delete a fleet": ["fleet", "delete", "{fleet}", "--force", "--etag", ""],
    "update an instance": ["instance", "update", "{fleet}", "node-1", "--no-labels", "--etag", ""],
    "delete an instance": ["instance", "delete", "{fleet}", "node-1", "--etag", ""],
    "cordon": ["instance", "cordon", "{fleet}", "node-1", "--etag", ""],
    "uncordon": ["instance", "uncordon", "{fleet}", "node-1", "--etag", ""],
    "a fleet without a name": ["describe", ""],
    "an instance with a slash": ["instance", "create", "{fleet}", "rack-1/node-1", "--blocks", "8"],
    "a fleet with a slash": ["fleet", "create", "team-a/gpu"],
}


@pytest.mark.parametrize("words", EMPTY_OPTIONS.values(), ids=EMPTY_OPTIONS)
def test_an_empty_option_is_wrong_usage_and_never_means_any(
    blockyard: CommandLine, client: Client, fleet: str, words: list[str]
) -> None:
    held = client.acquire(fleet, blocks=1, holder="somebody-else").allocation
    before = client.get_fleet(fleet)

    answer = blockyard(*(word.format(held=held.name, fleet=fleet) for word in words))

    assert (answer.code, answer.out) == (2, "")
    assert client.get_fleet(fleet) == before
