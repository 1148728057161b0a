"""The README's sections work on a server that `make serve` alone has started, and again when they are repeated."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.docs.page_runner import ROOT, Reader
from tests.docs.snippets import Command, RunByCI, Server, read_snippets

README = ROOT / "README.md"


def lines_of(title: str) -> range:
    """The lines of a section, from 1."""
    lines = README.read_text(encoding="utf-8").splitlines()
    first = lines.index(title) + 1
    after = next(number for number, line in enumerate(lines[first:], start=first + 1) if line.startswith("## "))
    return range(first, after)


@pytest.mark.slow
@pytest.mark.timeout(300)  # dozens of processes, beside the rest of the suite
def test_the_grpcurl_section_can_be_repeated(tmp_path: Path) -> None:
    snippets = read_snippets(README.read_text(encoding="utf-8"))
    [server] = [snippet for snippet in snippets if isinstance(snippet, Server)]
    section = lines_of("## Five minutes with grpcurl")
    steps = [snippet for snippet in snippets if isinstance(snippet, Command) and snippet.line in section]

    assert server.command.text == "make serve"
    assert [step for step in steps if "Allocator/Acquire" in step.text]
    assert len(steps) >= 8
    with ExitStack() as stack:
        reader = Reader(README, tmp_path, stack)
        reader.follow(server)
        for _ in range(2):
            for step in steps:
                reader.follow(step)


@pytest.mark.slow
@pytest.mark.timeout(300)  # as above
def test_the_whole_readme_can_be_repeated(tmp_path: Path) -> None:
    snippets = read_snippets(README.read_text(encoding="utf-8"))

    with ExitStack() as stack:
        reader = Reader(README, tmp_path, stack)
        for snippet in snippets:
            reader.follow(snippet)
        for snippet in snippets:
            if not isinstance(snippet, Server | RunByCI):
                reader.follow(snippet)
