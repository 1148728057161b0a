"""What the pages show is what happens: each snippet is executed, and its output compared."""

from pathlib import Path

import pytest

from tests.docs.page_runner import ROOT, run_page
from tests.docs.snippets import Command, Program, RunByCI, Server, read_snippets

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.timeout(300)  # a page of commands starts dozens of processes, beside the rest of the suite
@pytest.mark.parametrize(
    "page",
    [
        # `make docs` and `make test-slow` execute all of them.
        pytest.param(page, marks=() if page.parent == ROOT else pytest.mark.slow, id=str(page.relative_to(ROOT)))
        for page in PAGES
    ],
)
def test_every_snippet_of_the_page_does_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path)


def test_every_example_is_run_by_a_page() -> None:
    commands = [
        snippet.text
        for page in PAGES
        for snippet in read_snippets(page.read_text(encoding="utf-8"))
        if isinstance(snippet, Command)
    ]
    examples = [f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")]

    assert examples
    assert [example for example in examples if not any(example in command for command in commands)] == []


def test_the_readme_shows_a_server_the_tests_a_shell_and_the_sdk() -> None:
    kinds = {type(snippet) for snippet in read_snippets((ROOT / "README.md").read_text(encoding="utf-8"))}

    assert kinds == {Server, RunByCI, Command, Program}
