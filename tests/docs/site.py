"""The site that `make site` has built, read as a browser reads it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Final

from tests.docs.page_runner import ROOT

SITE: Final = ROOT / "build" / "site"
SOURCES: Final = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "object": "data"}
"""What a browser loads by itself, by tag."""
ONLY_NAMED: Final = {"canonical", "next", "prev"}
"""Kinds of `link` that a browser does not load."""
OTHER_HOST: Final = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//")
IN_A_STYLE: Final = re.compile(r"""(?:@import\s+|url\()\s*["']?((?:https?:)?//[^"')\s]+)""")


@dataclass
class SitePage(HTMLParser):
    """A page of HTML: its anchors, its links, and what it loads."""

    text: str
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values: Mapping[str, str] = {name: value or "" for name, value in attrs}
        if anchor := values.get("id"):
            self.anchors.add(anchor)
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in SOURCES and values.get("rel") not in ONLY_NAMED and SOURCES[tag] in values:
            self.loaded.append(values[SOURCES[tag]])
        if values.get("data-md-component") == "source":
            self.loaded.append("https://api.github.com/")  # Material's script asks it for the repository's stars
        self.loaded += IN_A_STYLE.findall(values.get("style", ""))

    def from_other_hosts(self) -> list[str]:
        """What it loads that is not a part of the site."""
        return [source for source in self.loaded if OTHER_HOST.match(source)]


def site_pages() -> dict[str, SitePage]:
    """All pages by their path in the site, but the one for addresses that are not there."""
    assert SITE.is_dir(), "there is no site: run `make site`, which builds it and then these tests"
    paths = sorted(path for path in SITE.rglob("*.html") if path.name != "404.html")
    return {path.relative_to(SITE).as_posix(): SitePage(path.read_text(encoding="utf-8")) for path in paths}


def styles() -> Iterator[tuple[str, list[str]]]:
    """Each style sheet, and what it loads from other hosts."""
    for path in SITE.rglob("*.css"):
        yield path.name, IN_A_STYLE.findall(path.read_text(encoding="utf-8"))
