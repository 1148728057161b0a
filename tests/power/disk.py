"""What a disk holds after the power went: a pure model of files, of what was synced, and of what else may be there.

POSIX promises of a write only that it is there after a sync of its file, and of a name only that it is there after a
sync of its folder. What was not synced may be there or not, in part, in any order: `survivals` chooses of it.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from random import Random
from typing import Final

SECTOR_BYTES: Final = 512
"""A write is torn at multiples of this."""

Files = Mapping[str, bytes]
"""Contents by name."""


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes written into a file; files have numbers, because a name may be given to another one."""

    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file's new length in bytes."""

    file: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """What was written into the file is on the disk from now on."""

    file: int


@dataclass(frozen=True, slots=True)
class FailedSync:
    """A sync of the file failed: what was not synced by then will never be, though it can still be read."""

    file: int


@dataclass(frozen=True, slots=True)
class Create:
    """A new, empty file."""

    name: str
    file: int


@dataclass(frozen=True, slots=True)
class Delete:
    """A name is taken away."""

    name: str


@dataclass(frozen=True, slots=True)
class SyncFolder:
    """What names there are is on the disk from now on."""


Change = Write | Truncate | Create | Delete
Step = Change | Sync | FailedSync | SyncFolder


class Disk:
    """The durable contents, and the changes since that were not synced, in order."""

    def __init__(self, files: Files) -> None:
        """A disk that holds these files; they have the numbers 0, 1, … in the order of the mapping."""
        self.pending: list[Change] = []
        self._names = {name: number for number, name in enumerate(files)}
        self._contents = {number: bytearray(data) for number, data in enumerate(files.values())}

    def take(self, step: Step) -> None:
        """One more step of the program that uses the disk."""
        match step:
            case Sync(file):
                self._settle(lambda change: isinstance(change, Write | Truncate) and change.file == file)
            case FailedSync(file):
                self.pending = [c for c in self.pending if not (isinstance(c, Write | Truncate) and c.file == file)]
            case SyncFolder():
                self._settle(lambda change: isinstance(change, Create | Delete))
            case _:
                self.pending.append(step)

    def size(self, file: int) -> int:
        """How long the file durably is, in bytes."""
        return len(self._contents.get(file, b""))

    def content(self, file: int) -> bytes:
        """What the file durably holds."""
        return bytes(self._contents.get(file, b""))

    def image(self, survivors: Iterable[Change]) -> dict[str, bytes]:
        """The files after the power went, if of the pending changes just these have reached the disk."""
        names, contents = dict(self._names), deepcopy(self._contents)
        for change in survivors:
            _apply(change, names, contents)
        return {name: bytes(contents.get(file, b"")) for name, file in names.items()}

    def _settle(self, synced: Callable[[Change], bool]) -> None:
        left = []
        for change in self.pending:
            if synced(change):
                _apply(change, self._names, self._contents)
            else:
                left.append(change)
        self.pending = left


def _apply(change: Change, names: dict[str, int], contents: dict[int, bytearray]) -> None:
    match change:
        case Write(file, offset, data):
            content = contents.setdefault(file, bytearray())
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data
        case Truncate(file, size):
            content = contents.setdefault(file, bytearray())
            content.extend(bytes(max(0, size - len(content))))
            del content[size:]
        case Create(name, file):
            names[name] = file
        case Delete(name):
            names.pop(name, None)


def sectors(write: Write) -> list[Write]:
    """The parts of a write that reach the disk each by itself."""
    parts = []
    begin = 0
    while begin < len(write.data):
        end = begin + SECTOR_BYTES - (write.offset + begin) % SECTOR_BYTES
        parts.append(Write(write.file, write.offset + begin, write.data[begin:end]))
        begin = end
    return parts


def only_synced(_disk: Disk, _random: Random) -> list[Change]:
    """Nothing else."""
    return []


def everything(disk: Disk, _random: Random) -> list[Change]:
    """All that was written, as after a kill -9."""
    return list(disk.pending)


def torn_prefix(disk: Disk, random: Random) -> list[Change]:
    """The changes up to some point, in order, the last one torn."""
    kept = disk.pending[: random.randint(0, len(disk.pending))]
    if kept and isinstance(last := kept[-1], Write):
        parts = sectors(last)
        kept[-1:] = parts[: random.randint(0, len(parts))]
    return kept


def any_changes(disk: Disk, random: Random) -> list[Change]:
    """Each change or not, whatever was before it."""
    share = random.random()
    return [change for change in disk.pending if random.random() < share]


def any_sectors(disk: Disk, random: Random) -> list[Change]:
    """Each sector of each write: old, new, or neither of them; each other change or not."""
    share = random.random()
    kept: list[Change] = []
    for change in disk.pending:
        if not isinstance(change, Write):
            kept += [change] if random.random() < share else []
            continue
        for part in sectors(change):
            if random.random() < share:
                kept.append(part)
            elif random.random() < share:
                kept.append(Write(part.file, part.offset, random.randbytes(len(part.data))))
    return kept


SURVIVALS: Final[Mapping[str, Callable[[Disk, Random], list[Change]]]] = {
    "only what was synced": only_synced,
    "everything": everything,
    "a torn prefix": torn_prefix,
    "any changes": any_changes,
    "any sectors": any_sectors,
}
"""What may become of the changes that were not synced."""
