"""The reference of the API: a page for each proto, written out of its comments."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from scripts.pages.protos import Enum, Field, File, Message, Method, Service

FOLDER: Final = "reference/api"
CODE: Final = re.compile(r"(`[^`]*`)")
NAME: Final = re.compile(r"`([A-Za-z][\w.]*)`")
REASON: Final = re.compile(r"\b[A-Z][A-Z_]+[A-Z]\b")
REASONS: Final = "blockyard.v1.ErrorReason"


def page_of(file: File) -> str:
    """The path of a proto's page in docs/."""
    return f"{FOLDER}/{_stem(file)}.md"


def api_pages(files: Sequence[File], repository: str) -> Iterator[tuple[str, str]]:
    """Paths in docs/ and texts: an index, and a page for each file."""
    writer = _Writer(files, repository)
    yield f"{FOLDER}/index.md", writer.index()
    for file in files:
        yield page_of(file), writer.page(file)


def names_in(file: File) -> Iterator[str]:
    """The full name of all that a file's page has an anchor for."""
    for service in file.services:
        yield service.full_name
        yield from (method.full_name for method in service.methods)
    for kind in _kinds(file):
        yield from _names_in(kind)


def _names_in(kind: Message | Enum) -> Iterator[str]:
    yield kind.full_name
    if isinstance(kind, Enum):
        yield from (value.full_name for value in kind.values)
    else:
        yield from (field.full_name for field in kind.fields)
        for inner in kind.inner:
            yield from _names_in(inner)


def _kinds(file: File) -> tuple[Message | Enum, ...]:
    return (*file.messages, *file.enums)


def _stem(file: File) -> str:
    return file.path.rpartition("/")[2].removesuffix(".proto")


def _title(file: File) -> str:
    return file.services[0].name if file.services else _stem(file).capitalize()


class _Writer:
    """Writes pages that link to each other."""

    def __init__(self, files: Sequence[File], repository: str) -> None:
        self._files = files
        self._repository = repository
        self._pages: Mapping[str, str] = {name: f"{_stem(file)}.md" for file in files for name in names_in(file)}
        self._resources: Mapping[str, str] = {
            message.resource: message.full_name for file in files for message in file.messages if message.resource
        }

    def index(self) -> str:
        about = (
            "The package `blockyard.v1`, written out of the comments of its protos. "
            "A client can be generated out of them in any language that has gRPC; "
            "the server also describes itself by reflection."
        )
        parts = ["# API", about]
        for file in self._files:
            for service in file.services:
                rows = (
                    f"| [`{method.name}`]({self._address(method.full_name)}) | {self._first_sentence(method)} |"
                    for method in service.methods
                )
                title = f"## [{service.name}]({self._address(service.full_name)})"
                parts += [title, "\n".join(["| RPC | what it does |", "|---|---|", *rows])]
        parts.append("## Messages and errors")
        parts += [f"- [{_title(file)}]({_stem(file)}.md): `{file.path}`" for file in self._files if not file.services]
        return "\n\n".join(parts) + "\n"

    def page(self, file: File) -> str:
        source = f"[`protos/{file.path}`]({self._repository}/blob/main/protos/{file.path})"
        parts = [f"# {_title(file)}", f"Package `{file.package}`, written out of the comments of {source}."]
        for service in file.services:
            parts += self._service(service)
        for kind in _kinds(file):
            parts += self._message(kind, 2) if isinstance(kind, Message) else self._enum(kind, 2)
        return "\n\n".join(parts) + "\n"

    def _service(self, service: Service) -> Iterator[str]:
        yield f"## Service {service.name} {{ #{service.full_name} }}"
        yield self._prose(service.comment, service.full_name)
        for method in service.methods:
            stream = "stream of " if method.streams else ""
            yield f"### {method.name} {{ #{method.full_name} }}"
            yield f"{self._type(method.request)} → {stream}{self._type(method.answer)}"
            yield self._prose(method.comment, service.full_name)

    def _message(self, message: Message, level: int) -> Iterator[str]:
        yield f"{'#' * level} {message.title} {{ #{message.full_name} }}"
        yield self._prose(message.comment, message.full_name)
        if message.resource:
            yield f"Resource type: `{message.resource}`."
        for oneof in message.oneofs:
            members = ", ".join(f"`{field.name}`" for field in message.fields if field.oneof == oneof.name)
            yield f"One of {members} (`{oneof.name}`): {self._prose(oneof.comment, message.full_name)}"
        for field in message.fields:
            facts = " · ".join(self._facts(field))
            yield self._definition(field.name, field.full_name, facts, field.comment, message.full_name)
        for inner in message.inner:
            yield from self._message(inner, level + 1) if isinstance(inner, Message) else self._enum(inner, level + 1)

    def _facts(self, field: Field) -> Iterator[str]:
        yield self._kind(field)
        yield from (behavior.lower().replace("_", " ") for behavior in field.behaviors)
        if field.oneof:
            yield f"one of `{field.oneof}`"
        if field.has_presence:
            yield "absent and empty differ"
        if field.resource:
            yield f"names a {self._type(self._resources[field.resource])}"

    def _enum(self, enum: Enum, level: int) -> Iterator[str]:
        yield f"{'#' * level} {enum.title} {{ #{enum.full_name} }}"
        yield self._prose(enum.comment, enum.full_name)
        for value in enum.values:
            yield self._definition(value.name, value.full_name, str(value.number), value.comment, enum.full_name)

    def _definition(self, name: str, full_name: str, facts: str, comment: str, scope: str) -> str:
        text = self._prose(comment, scope).replace("\n", "\n    ")
        return f"[`{name}`](#{full_name}){{ #{full_name} .name }} {facts}\n:   {text}"

    def _kind(self, field: Field) -> str:
        """The type, in which the name of one of ours is a link."""
        if field.type_name is None or field.type_name not in self._pages:
            return f"`{field.kind}`"
        title = field.type_name.removeprefix("blockyard.v1.")
        before, _, after = field.kind.rpartition(title)
        return "".join(
            [f"`{before.strip()}` " if before else "", self._type(field.type_name), f"`{after}`" if after else ""]
        )

    def _type(self, full_name: str) -> str:
        title = full_name.removeprefix("blockyard.v1.")
        return f"[`{title}`]({self._address(full_name)})" if full_name in self._pages else f"`{title}`"

    def _address(self, full_name: str) -> str:
        return f"{self._pages[full_name]}#{full_name}"

    def _first_sentence(self, method: Method) -> str:
        paragraph = method.comment.partition("\n\n")[0].replace("\n", " ")
        sentence = re.split(r"(?<=\.)\s", paragraph, maxsplit=1)[0]
        return self._prose(sentence, method.full_name)

    def _prose(self, comment: str, scope: str) -> str:
        """A comment, in which the names of the API and the reasons of errors are links."""
        return "".join(
            self._linked_name(part, scope) if part.startswith("`") else self._linked_reasons(part)
            for part in CODE.split(comment)
        )

    def _linked_name(self, code: str, scope: str) -> str:
        name = NAME.fullmatch(code)
        target = self._found(name[1], scope) if name else None
        return f"[{code}]({self._address(target)})" if target else code

    def _found(self, name: str, scope: str) -> str | None:
        """What a name means in a scope: the innermost that there is, as in a proto."""
        while scope:
            if (full_name := f"{scope}.{name}") in self._pages:
                return full_name
            scope = scope.rpartition(".")[0]
        return None

    def _linked_reasons(self, text: str) -> str:
        def link(found: re.Match[str]) -> str:
            full_name = f"{REASONS}.{found[0]}"
            return f"[{found[0]}]({self._address(full_name)})" if full_name in self._pages else found[0]

        return REASON.sub(link, text)
