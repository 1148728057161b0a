"""What a mutant is: a change of the server, and the tests that must see it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """One replacement in a file of the server."""

    file: str
    """Below `server/blockyard_server/`."""
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """A server with one guard less."""

    guard: str
    """What is broken."""
    edits: tuple[Edit, ...]
    red: tuple[str, ...]
    """The tests that must go red: files or single tests, as pytest takes them."""
