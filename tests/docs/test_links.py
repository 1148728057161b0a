"""What a page refers to is there: files, folders, and headings of other pages."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.docs.page_runner import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
MADE = {"build", "dist", "node_modules"}
"""Folders that only come to be when somebody makes something."""
TOP = {path.name for path in ROOT.iterdir()} - MADE
PATH = re.compile(r"[\w.-]+/[\w./-]*")
"""What looks like a path. It is one of the project's if it begins with one of its folders."""

every_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def inline_tokens(page: Path) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        yield from token.children or ()


def links(page: Path) -> list[str]:
    names = {"link_open": "href", "image": "src"}
    found = [str(token.attrGet(names[token.type])) for token in inline_tokens(page) if token.type in names]
    return [link for link in found if not re.match(r"https?://|mailto:", link)]


def paths(page: Path) -> list[str]:
    code = [token.content for token in inline_tokens(page) if token.type == "code_inline"]
    return [text for text in code if PATH.fullmatch(text) and text.partition("/")[0] in TOP]


def anchors(page: Path) -> set[str]:
    """The headings, in the form in which a link names them."""
    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    titles = [tokens[index + 1].content for index, token in enumerate(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def dead_links(page: Path) -> list[str]:
    dead = []
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        there = target.exists() and target.is_relative_to(ROOT)
        if not there or (anchor and anchor not in anchors(target)):
            dead.append(link)
    return dead


@every_page
def test_every_link_leads_somewhere_in_the_project(page: Path) -> None:
    assert dead_links(page) == []


@every_page
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    assert [path for path in paths(page) if not (ROOT / path).exists()] == []


def test_a_dead_link_and_a_dead_path_are_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title\n\n[a](#a-title) [b](#no-title) [c](gone.md) `docs/gone.md` `fleets/gpu`\n", "utf-8")

    assert links(page) == ["#a-title", "#no-title", "gone.md"]
    assert anchors(page) == {"a-title"}
    assert paths(page) == ["docs/gone.md"]


def pages_linked_from(page: Path) -> set[Path]:
    """The pages that it links to, and those in the folders that it links to."""
    targets = {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}
    return {path for target in targets for path in (target, *target.glob("*.md")) if path.suffix == ".md"} & set(PAGES)


def test_every_page_of_the_docs_is_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    waiting = {ROOT / "README.md"}
    while waiting:
        page = waiting.pop()
        reached.add(page)
        waiting |= pages_linked_from(page) - reached

    assert set((ROOT / "docs").rglob("*.md")) <= reached
