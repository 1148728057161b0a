"""Progress bars on stderr, where that is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def counting(title: str, total: int) -> Iterator[Callable[[int], object]]:
    """A bar for `total` things. Call the function it gives with how many more are done. It is cleared at the end."""
    with _bar(MofNCompleteColumn()) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.advance(task, done)


@contextmanager
def copying(title: str, then: str) -> Iterator[Callable[[int, int], object]]:
    """A bar for bytes; call what it gives with those that are done and those in all. `then` follows when all are."""
    with _bar(DownloadColumn(binary_units=True)) as bar:
        task = bar.add_task(title, total=None)

        def tell(done: int, total: int) -> None:
            if done < total:
                bar.update(task, completed=done, total=total)
            else:
                bar.update(task, description=then, completed=done, total=None)

        yield tell


@contextmanager
def _bar(amount: MofNCompleteColumn | DownloadColumn) -> Iterator[Progress]:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        amount,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bar.disable = not bar.console.is_terminal
    if bar.disable:
        # Rich before 14 ends even a bar that is disabled with an empty line.
        yield bar
        return
    with bar:
        yield bar
