"""The page that compares Blockyard with others cites its sources, and its figures are those that were measured."""

import re
from typing import Final

import pytest

from tests.docs.page_runner import ROOT

PAGE: Final = ROOT / "docs" / "explanation" / "comparison.md"
BENCHMARKS: Final = ROOT / "docs" / "explanation" / "benchmarks.md"
OTHERS: Final = ("etcd", "OpenStack Placement", "Kueue", "Nomad", "Boskos", "Plain PostgreSQL", "dstack's own counter")


def section(title: str) -> str:
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (found,) = [text for text in sections if text.startswith(f"{title}\n")]
    return found


def cited(text: str) -> set[str]:
    return set(re.findall(r"\]\[([a-z0-9-]+)\]", text))


@pytest.mark.parametrize("other", OTHERS)
def test_what_is_said_of_another_system_has_a_source(other: str) -> None:
    assert cited(section(other))


def test_every_source_is_given_once_and_used() -> None:
    text = PAGE.read_text(encoding="utf-8")
    given = re.findall(r"^\[([a-z0-9-]+)\]: https://\S+$", text, flags=re.MULTILINE)

    assert sorted(given) == sorted(cited(text))


def test_the_figures_are_those_of_the_benchmarks() -> None:
    figures = re.findall(r"(?<=\| )[\d,.]+(?= \|)", section("Speed"))
    measured = re.findall(r"(?<=\| )[\d,.]+(?= \|)", BENCHMARKS.read_text(encoding="utf-8"))

    assert len(figures) == 8
    assert set(figures) <= set(measured)
