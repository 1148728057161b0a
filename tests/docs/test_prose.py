"""The pages are plain: lines that fit beside a diff, and none of the phrases that a reader has to read twice."""

import re
from pathlib import Path
from typing import Final

import pytest
from markdown_it import MarkdownIt

from tests.docs.page_runner import ROOT

LIMIT_COLUMNS: Final = 100
LINK: Final = re.compile(r"\[[^\]]*\]\([^)]*\)|https?://\S+")
FENCE: Final = re.compile(r"^( *)```.*?^\1```", flags=re.DOTALL | re.MULTILINE)
LINE_END: Final = "\n"
NOT_WRAPPED: Final = {"fence", "code_block", "table_open", "html_block"}
"""What has lines that Markdown cannot break."""

PHRASES: Final = {
    r"who outgrows?": "say what the reader needs, and when",
    r"so many": "say the number, or 'that many'",
    r"for another's sake|for (?:the|its|their) sake": "say the reason",
    r"of the world|in the world|the world (?:has|is|goes|sees|knows|may|can)": "say who or what is meant",
    r"behind (?:your|its|their) backs?": "say 'in the background', or who does not notice",
    r"(?:in|into) your hands": "say what the caller gets",
    r"was faster": "say 'changed it first'",
    r"speaks? of": "say 'means', 'names' or 'describes'",
    r"come to be": "say who makes it",
    r"brings? to agree|brought to agree": "say what is changed, and to what",
    r"rides? (?:over|out)": "say what continues, and what stops",
    r"have teeth": "say what finds which fault",
}
"""Phrases that a stranger has to read twice, each with what to write instead. They may run over the end of a line."""

PAGES: Final = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")]
    if "node_modules" not in path.parts
)

every_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def lines_of_prose(text: str) -> dict[int, str]:
    """The lines by number, from 1, without those that cannot be broken."""
    lines = dict(enumerate(text.splitlines(), start=1))
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type in NOT_WRAPPED and token.map:
            for number in range(token.map[0] + 1, token.map[1] + 1):
                lines.pop(number, None)
    return lines


def too_long(text: str) -> list[str]:
    """A line with a long link is accepted if nothing but a bullet or a full stop stands beside the link."""
    return [
        f"line {number} has {len(line)} columns"
        for number, line in lines_of_prose(text).items()
        if len(line) > LIMIT_COLUMNS and not (LINK.search(line) and len(LINK.sub("", line).split()) <= 1)
    ]


def phrases_in(text: str) -> list[str]:
    """Each phrase with its line and the advice. Tables count, code blocks do not."""
    prose = FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)
    return [
        f"line {prose[: found.start()].count(LINE_END) + 1}: '{found[0]}': {advice}"
        for phrase, advice in PHRASES.items()
        for found in re.finditer(rf"\b(?:{phrase})\b".replace(" ", r"\s+"), prose, flags=re.IGNORECASE)
    ]


@every_page
def test_no_line_of_prose_is_longer_than_the_limit(page: Path) -> None:
    assert too_long(page.read_text(encoding="utf-8")) == []


@every_page
def test_no_phrase_has_to_be_read_twice(page: Path) -> None:
    assert phrases_in(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        ("a" * 101, ["line 1 has 101 columns"]),
        ("a" * 100, []),
        (f"# A title\n\n- item {'a' * 100}", ["line 3 has 107 columns"]),
        (f"```text\n{'a' * 101}\n```", []),
        (f"| a |\n|---|\n| {'a' * 101} |", []),
        (f"- [a link]({'a' * 101})", []),
        (f"{'a' * 60} {'b' * 60} [a link](page.md)", ["line 1 has 139 columns"]),
    ],
)
def test_lines_are_measured_except_for_tables_code_and_links(text: str, complaints: list[str]) -> None:
    assert too_long(text) == complaints


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("A team who\noutgrows a file.", ["line 1"]),
        ("Fine.\n\n- It waits for so\n  many.", ["line 3"]),
        ("| a |\n|---|\n| a step For Another's Sake |", ["line 3"]),
        ("```text\nso many\n```\n\nso many", ["line 5"]),
        ("Also many of the worlds.", []),
    ],
)
def test_a_phrase_is_found_over_the_end_of_a_line_and_in_a_table(text: str, lines: list[str]) -> None:
    assert [complaint.partition(":")[0] for complaint in phrases_in(text)] == lines
