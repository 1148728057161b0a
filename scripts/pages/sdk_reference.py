"""The reference of the SDK: which public name is on which page. mkdocstrings writes it out of the docstrings.

A public name is one of `blockyard.__all__`, and what such a class has that does not begin with an underscore. One
without a docstring, or of a module that no page is about, is an error.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import griffe

PACKAGE: Final = "blockyard"
FOLDER: Final = "reference/sdk"


class Undocumented(Exception):
    """A public name has no docstring or no page; the message names all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SdkPage:
    """A page of the reference."""

    name: str
    """The file's name, without its ending."""
    title: str
    """Its heading."""
    modules: tuple[str, ...]
    """The public names that these modules define are on it, in their order."""
    tree: bool = False
    """Whether its classes are one tree of public ones: a class is shown with its base, and without what it inherits."""


PAGES: Final = (
    SdkPage(name="client", title="The blocking client", modules=("client",)),
    SdkPage(name="async-client", title="The asyncio client", modules=("aio",)),
    SdkPage(name="credentials", title="Credentials", modules=("credentials",)),
    SdkPage(name="leases", title="Leases", modules=("lease", "aio_lease")),
    SdkPage(name="watches", title="Watches", modules=("watch", "aio_watch")),
    SdkPage(name="operations", title="Operations for a batch", modules=("operations", "_call")),
    SdkPage(name="values", title="Values", modules=("types", "_fleet_admin", "_retry", "_version")),
    SdkPage(name="enums", title="Enums", modules=("enums",)),
    SdkPage(name="errors", title="Errors", modules=("errors", "reasons"), tree=True),
)


def sdk_pages(source: Path) -> Iterator[tuple[str, str]]:
    """Paths in docs/ and texts, for the package in a folder. Raises Undocumented."""
    package = load(source)
    if missing := [*undocumented(package), *_without_page(package)]:
        raise Undocumented(f"no docstring or no page in the reference of the SDK: {', '.join(missing)}")
    names = _names_of_pages(package)
    yield f"{FOLDER}/index.md", _index(package, names)
    for page in PAGES:
        blocks = [_block(package, name, page) for name in names[page.name]]
        yield f"{FOLDER}/{page.name}.md", "\n\n".join([f"# {page.title}", *blocks]) + "\n"


def load(source: Path) -> griffe.Module:
    """The package, read as text: nothing of it is executed."""
    package = griffe.load(PACKAGE, search_paths=[source], resolve_aliases=True, docstring_parser="google")
    assert isinstance(package, griffe.Module)
    return package


def public_names(package: griffe.Module) -> Iterator[str]:
    """All that a user may name: `Client`, `Client.acquire`, `operations.acquire`."""
    for name in _exports(package):
        yield name
        yield from (f"{name}.{member}" for member in _members(_defined(package, name)))


def undocumented(package: griffe.Module) -> list[str]:
    """The public names that have no docstring."""
    return [name for name in public_names(package) if not _summary(package, name)]


def _exports(package: griffe.Module) -> list[str]:
    return [str(name) for name in package.exports or ()]


def _defined(package: griffe.Module, name: str) -> griffe.Object:
    found = package[name]
    return found.final_target if isinstance(found, griffe.Alias) else found


def _members(owner: griffe.Object) -> Iterator[str]:
    """Of a module its functions; of a class all that it has or inherits from another class of ours."""
    if owner.is_module:
        own = {name: each for name, each in owner.members.items() if not each.is_alias}
        yield from (name for name, each in own.items() if each.is_function and not name.startswith("_"))
    elif owner.is_class:
        yield from (name for name in owner.all_members if not name.startswith("_"))


def _summary(package: griffe.Module, name: str) -> str:
    """The first paragraph of the docstring, on one line."""
    owner, _, member = name.partition(".")
    defined = _defined(package, owner)
    thing = defined.all_members[member] if member else defined
    text = thing.docstring.value if thing.docstring else ""
    return " ".join(text.strip().partition("\n\n")[0].split())


def _module_of(package: griffe.Module, name: str) -> str:
    defined = _defined(package, name)
    module = defined if defined.is_module else defined.module
    return module.path.removeprefix(f"{PACKAGE}.")


def _without_page(package: griffe.Module) -> list[str]:
    known = {module for page in PAGES for module in page.modules}
    return [name for name in _exports(package) if _module_of(package, name) not in known]


def _names_of_pages(package: griffe.Module) -> Mapping[str, list[str]]:
    """The public names of each page, in the order of the modules and of what they define."""

    def place(name: str) -> tuple[int, int]:
        return order.index(_module_of(package, name)), _defined(package, name).lineno or 0

    order = [module for page in PAGES for module in page.modules]
    names = sorted(_exports(package), key=place)
    return {page.name: [name for name in names if _module_of(package, name) in page.modules] for page in PAGES}


def _index(package: griffe.Module, names: Mapping[str, list[str]]) -> str:
    how_to = "[Use the SDK](../../how-to/use-the-sdk.md) shows how it is used."
    parts = ["# Python SDK", f"All that `import {PACKAGE}` gives, written out of its docstrings. {how_to}"]
    for page in PAGES:
        rows = (
            f"| [`{name}`]({page.name}.md#{PACKAGE}.{name}) | {_summary(package, name).replace('|', '&#124;')} |"
            for name in names[page.name]
        )
        table = "\n".join(["| name | what it is |", "|---|---|", *rows])
        parts += [f"## [{page.title}]({page.name}.md)", table]
    return "\n\n".join(parts) + "\n"


def _block(package: griffe.Module, name: str, page: SdkPage) -> str:
    """What mkdocstrings replaces by the documentation of a name."""
    options = [
        f"inherited_members: {str(not page.tree).lower()}",
        f"show_bases: {str(page.tree).lower()}",
        f"show_attribute_values: {str(not page.tree).lower()}",  # an error's are the arguments that it was made with
    ]
    defined = _defined(package, name)
    if defined.is_module:
        options.append(f"members: [{', '.join(_members(defined))}]")
    return "\n".join([f"::: {PACKAGE}.{name}", "    options:", *(f"      {option}" for option in options)])
