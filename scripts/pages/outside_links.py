"""Links of a page that MkDocs cannot follow, made such that the same text works on GitHub and on the site.

A link to a folder of docs/ becomes one to its index. A link out of docs/ becomes one to the page that is generated out
of its target, such as a proto's, or else to the target in the repository.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt

ABSOLUTE: Final = re.compile(r"[a-z][a-z0-9+.-]*:|//|#")


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """What is needed to translate a link."""

    docs: Path
    """The folder of the pages."""
    root: Path
    """The folder of the project."""
    repository: str
    """The repository's URL."""
    generated: Mapping[str, str]
    """Files and folders of the project that a generated page is about, and the page's path in docs/."""

    def translated(self, page: str, text: str) -> tuple[str, list[str]]:
        """The text of a page, given by its path in docs/, with the links of the site; and the links that are dead."""
        dead = []
        for link in set(_links(text)):
            path, hash_, anchor = link.partition("#")
            target = (self.docs / page).parent.joinpath(path).resolve()
            if target.is_relative_to(self.docs) and not target.is_dir():
                continue  # MkDocs checks it
            if not target.exists() or not target.is_relative_to(self.root):
                dead.append(link)
                continue
            place = re.compile(rf"(\]\(|\]: ){re.escape(link)}(?=[)\s])")
            text = place.sub(rf"\g<1>{self._address(page, target)}{hash_}{anchor}", text)
        return text, sorted(dead)

    def _address(self, page: str, target: Path) -> str:
        name = target.relative_to(self.root).as_posix()
        if name in self.generated:
            about = self.docs / self.generated[name]
        elif target.is_relative_to(self.docs):
            about = target / "index.md"
        else:
            return f"{self.repository}/{'tree' if target.is_dir() else 'blob'}/main/{name}"
        return Path(relpath(about, (self.docs / page).parent)).as_posix()


def _links(text: str) -> Iterator[str]:
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        for inner in token.children or ():
            link = inner.attrGet("href" if inner.type == "link_open" else "src")
            if inner.type in {"link_open", "image"} and link and not ABSOLUTE.match(str(link)):
                yield str(link)
