"""A history on disk: two files of lines, so that a million calls need little memory.

ops.jsonl       the header, then one call a line, in the order in which the answers came
journal.jsonl   one event a line
"""

import json
import mmap
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, overload

from tests.history.record import Event, History, Op, decode_event, decode_op, encode_event, encode_op


class HistoryWriter:
    """Appends calls as their answers come. A context manager."""

    def __init__(self, folder: Path, sizes: Sequence[int]) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._file = (folder / "ops.jsonl").open("w", encoding="utf-8")
        self._file.write(json.dumps({"sizes": list(sizes)}) + "\n")
        self.written = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """All of it is in the file."""
        self._file.close()

    def append(self, op: Op) -> None:
        """One call. Its number becomes its place in the file."""
        self._file.write(encode_op(op) + "\n")
        self.written += 1

    def write_journal(self, events: Iterable[Event]) -> None:
        """The journal, once the fleet stands still."""
        with (self._folder / "journal.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(encode_event(event) + "\n" for event in events)


class OpsOnDisk(Sequence[Op]):
    """The calls of a file; each is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        header = self._map.readline()
        self.sizes: tuple[int, ...] = tuple(json.loads(header)["sizes"])
        self._ends = array("Q", [len(header)])
        while line := self._map.readline():
            self._ends.append(self._ends[-1] + len(line))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, place: int) -> Op: ...
    @overload
    def __getitem__(self, place: slice) -> list[Op]: ...
    def __getitem__(self, place: int | slice) -> Op | list[Op]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        return decode_op(place, self._map[self._ends[place] : self._ends[place + 1]])


class JournalOnDisk:
    """The events of a file; may be read again and again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[Event]:
        with self._path.open("rb") as file:
            for line in file:
                yield decode_event(line)


def read_history(folder: Path) -> History:
    """The history that a `HistoryWriter` has written."""
    ops = OpsOnDisk(folder / "ops.jsonl")
    return History(ops.sizes, ops, JournalOnDisk(folder / "journal.jsonl"))
