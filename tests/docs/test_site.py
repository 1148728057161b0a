"""The site is whole: references that lack nothing, links that lead somewhere, no other host; and a fault turns it red.

`make site` builds it, strictly, and then runs these tests.
"""

import inspect
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from urllib.parse import unquote

import pytest

import blockyard
from tests.docs.page_runner import ROOT
from tests.docs.site import SITE, SitePage, site_pages, styles
from tests.protos.annotations import FILES

pytestmark = pytest.mark.site

REPOSITORY: Final = "https://github.com/blockyard/blockyard"
PARTS: Final = ("docs", "protos", "client/blockyard", "scripts", "mkdocs.yml")
"""What the site is built out of."""


@pytest.fixture(scope="module")
def pages() -> dict[str, SitePage]:
    return site_pages()


def anchors_below(folder: str, pages: dict[str, SitePage]) -> set[str]:
    return {anchor for path, page in pages.items() if path.startswith(folder) for anchor in page.anchors}


def public_names() -> Iterator[str]:
    """What a user of the SDK may name, asked of the package itself."""
    for name in blockyard.__all__:
        yield f"blockyard.{name}"
        thing = getattr(blockyard, name)
        if isinstance(thing, ModuleType):
            yield from (f"blockyard.{name}.{function}" for function in functions(thing))
        elif inspect.isclass(thing):
            yield from (f"blockyard.{name}.{member}" for member in members(thing))


def functions(module: ModuleType) -> set[str]:
    found = dict(inspect.getmembers(module, inspect.isfunction))
    return {name for name, each in found.items() if each.__module__ == module.__name__ and not name.startswith("_")}


def members(kind: type) -> set[str]:
    """What the class has, also from those of its bases that have no entry of their own."""
    bases = (base for base in kind.__mro__ if base.__module__.startswith("blockyard"))
    own = (base for base in bases if base is kind or base.__name__ not in blockyard.__all__)
    return {name for base in own for name in vars(base) if not name.startswith("_")}


def names_of_the_protos() -> Iterator[str]:
    """Services, RPCs, messages, fields, enums and values, out of the descriptors of the generated code."""
    for file in FILES:
        for service in file.services_by_name.values():
            yield service.full_name
            yield from (method.full_name for method in service.methods)
        for message in file.message_types_by_name.values():
            yield from names_of_message(message)
        for enum in file.enum_types_by_name.values():
            yield from names_of_enum(enum)


def names_of_message(message: Any) -> Iterator[str]:
    yield message.full_name
    yield from (field.full_name for field in message.fields)
    for enum in message.enum_types:
        yield from names_of_enum(enum)
    for inner in message.nested_types:
        if not inner.GetOptions().map_entry:
            yield from names_of_message(inner)


def names_of_enum(enum: Any) -> Iterator[str]:
    yield enum.full_name
    yield from (f"{enum.full_name}.{value.name}" for value in enum.values)


def test_every_public_name_of_the_sdk_has_its_entry(pages: dict[str, SitePage]) -> None:
    names = set(public_names())

    assert {"blockyard.Client.acquire", "blockyard.operations.release", "blockyard.Demand.blocks"} <= names
    assert names - anchors_below("reference/sdk/", pages) == set()


def test_everything_in_the_protos_has_its_entry(pages: dict[str, SitePage]) -> None:
    names = set(names_of_the_protos())

    assert {"blockyard.v1.Allocator.Acquire", "blockyard.v1.ReleaseRequest.idempotency_token"} <= names
    assert names - anchors_below("reference/api/", pages) == set()


def test_every_link_of_the_site_leads_somewhere(pages: dict[str, SitePage]) -> None:
    dead = [f"{path}: {link}" for path, page in pages.items() for link in page.links if not leads(path, link, pages)]

    assert dead == []


def leads(path: str, link: str, pages: dict[str, SitePage]) -> bool:
    name, _, anchor = unquote(link).partition("#")
    if name.startswith((f"{REPOSITORY}/blob/main/", f"{REPOSITORY}/tree/main/")):
        return (ROOT / name.removeprefix(REPOSITORY).split("/", 3)[3]).exists()
    if ":" in name:
        return True  # another host's
    target = (SITE / path).parent.joinpath(name).resolve() if name else SITE / path
    found = pages.get(target.relative_to(SITE).as_posix()) if target.is_relative_to(SITE) else None
    return found is not None and (not anchor or anchor.startswith("__") or anchor in found.anchors)


def test_a_page_in_the_repository_leads_to_the_same_page_of_the_site(pages: dict[str, SitePage]) -> None:
    links = pages["index.html"].links

    assert {"reference/api/index.html", "reference/sdk/index.html", "adr/index.html"} <= set(links)
    assert f"{REPOSITORY}/blob/main/CONTRIBUTING.md" in links


def test_no_page_loads_anything_from_another_host(pages: dict[str, SitePage]) -> None:
    assert len(pages) > 40
    assert all(page.loaded for page in pages.values())
    assert {path: page.from_other_hosts() for path, page in pages.items() if page.from_other_hosts()} == {}
    assert [(name, loaded) for name, loaded in styles() if loaded] == []


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://unpkg.com/mermaid"></script>',
        '<link rel="stylesheet" href="//fonts.googleapis.com/css">',
        '<img src="http://example.org/badge.svg">',
        '<p style="background: url(https://example.org/a.png)">',
        '<a href="https://github.com/a/b" data-md-component="source">',
    ],
)
def test_what_another_host_would_be_asked_for_is_noticed(html: str) -> None:
    assert len(SitePage(html).from_other_hosts()) == 1


def test_what_is_only_named_or_is_of_the_site_is_not_noticed() -> None:
    html = '<link rel="canonical" href="https://a.b/c"><script src="../a.js"></script><a href="https://a.b">'

    assert SitePage(html).from_other_hosts() == []


def strict_build_of_a_copy(folder: Path, break_it: Callable[[Path], None]) -> str:
    """What `make site` says of a copy of the project with a fault. It must end with a failure."""
    for part in PARTS:
        source, target = ROOT / part, folder / part
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    break_it(folder)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    assert done.returncode != 0
    return done.stdout + done.stderr


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1
    path.write_text(text.replace(before, after), encoding="utf-8")


def add_dead_links(folder: Path) -> None:
    (folder / "README.md").touch()
    (folder / "CONTRIBUTING.md").touch()
    with (folder / "docs" / "reference" / "glossary.md").open("a", encoding="utf-8") as page:
        page.write("\n[a](gone.md) [b](cli.md#no-heading) [c](../../server/gone.py) [d](../gone/) [e](../../..)\n")


def test_dead_links_turn_the_site_red(tmp_path: Path) -> None:
    said = strict_build_of_a_copy(tmp_path, add_dead_links)

    for link in ("'gone.md'", "'cli.md#no-heading'", "'../../server/gone.py'", "'../gone/'", "'../../..'"):
        assert f"link {link}" in said


def test_an_undocumented_field_or_value_turns_the_site_red(tmp_path: Path) -> None:
    def add_undocumented(folder: Path) -> None:
        protos = folder / "protos" / "blockyard" / "v1"
        change(protos / "allocator.proto", "message Hold {\n", "message Hold {\n  int32 unsaid = 99;\n")
        change(protos / "ledger.proto", "    GRANTED = 7;\n", "    GRANTED = 7;\n    UNSAID = 99;\n")

    said = strict_build_of_a_copy(tmp_path, add_undocumented)

    assert "no comment in protos: blockyard.v1.Hold.unsaid, blockyard.v1.Event.Kind.UNSAID" in said


def test_an_undocumented_name_of_the_sdk_turns_the_site_red(tmp_path: Path) -> None:
    def add_undocumented(folder: Path) -> None:
        package = folder / "client" / "blockyard"
        change(package / "types.py", "    key: str\n", "    unsaid: int\n    key: str\n")
        change(
            package / "_client_methods.py",
            "    def acquire(\n",
            "    def unsaid(self) -> None: ...\n    def acquire(\n",
        )
        with (package / "operations.py").open("a", encoding="utf-8") as module:
            module.write("\ndef unsaid() -> None: ...\n")

    said = strict_build_of_a_copy(tmp_path, add_undocumented)

    found = said.partition("no docstring or no page in the reference of the SDK: ")[2].splitlines()[0]
    assert set(found.split(", ")) == {"Client.unsaid", "Expression.unsaid", "operations.unsaid"}
