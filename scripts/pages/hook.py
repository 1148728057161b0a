"""What MkDocs does for this site besides: it adds the pages that are generated, and translates links out of docs/.

Run MkDocs as `python -m mkdocs` in the project's folder, as `make site` does, so that this package is found.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from scripts.pages import api_reference, protos, sdk_reference
from scripts.pages.outside_links import Links

log: Final = logging.getLogger("mkdocs.hooks.pages")  # one of MkDocs's own: a warning there ends a strict build

_links: dict[str, Links] = {}
"""By the folder of the pages: what the last `on_files` has found."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the reference of the API and of the SDK, and the list of the decisions."""
    root = Path(config.config_file_path).parent
    repository = (config.repo_url or "").rstrip("/")
    try:
        api = protos.read_protos(root / "protos")
        pages = {
            **dict(api_reference.api_pages(api, repository)),
            **dict(sdk_reference.sdk_pages(root / "client")),
            "adr/index.md": _decisions(Path(config.docs_dir) / "adr"),
        }
    except (protos.Undocumented, sdk_reference.Undocumented) as error:
        raise PluginError(str(error)) from error
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    about = {f"protos/{file.path}": api_reference.page_of(file) for file in api}
    folders = {
        f"protos/{protos.OURS}": f"{api_reference.FOLDER}/index.md",
        f"client/{sdk_reference.PACKAGE}": f"{sdk_reference.FOLDER}/index.md",
    }
    _links[config.docs_dir] = Links(
        docs=Path(config.docs_dir), root=root, repository=repository, generated={**about, **folders}
    )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Translates the links that MkDocs cannot follow by itself. A page without parts has no table of contents."""
    del files
    if page.file.generated_by:
        return markdown
    if "\n## " not in markdown:
        page.meta["hide"] = ["toc"]  # an empty one, whose room a wide table can use
    text, dead = _links[config.docs_dir].translated(page.file.src_uri, markdown)
    for link in dead:
        log.warning("%s: the link %r leads nowhere", page.file.src_uri, link)
    return text


def _decisions(folder: Path) -> str:
    titles: Mapping[str, str] = dict(_titles(folder))
    return "\n".join(["# Decisions", "", *(f"- [{title}]({name})" for name, title in titles.items()), ""])


def _titles(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob("[0-9]*.md")):
        found = re.search(r"^# (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        yield path.name, found[1] if found else path.stem
