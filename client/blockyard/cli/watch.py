"""`blockyard watch`: a fleet's journal as it grows, a line for each event."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Annotated, Final, Self, TypeVar

import typer
from rich.text import Text

from blockyard.cli.connection import connect
from blockyard.cli.events import describe_event
from blockyard.cli.options import FleetArgument, OfHolder, OfInstance, OfKind, Output
from blockyard.cli.output import OutputFormat, print_json_line, print_line, tell, write_time
from blockyard.cli.server_choice import NO_OPTIONS, ServerOptions
from blockyard.cli.server_options import calls_server
from blockyard.enums import EventKind
from blockyard.types import Event

T = TypeVar("T")

PROGRESS_S: Final = 2.0
"""The longest time between two messages of a server that is there."""
SILENCE_S: Final = 3 * PROGRESS_S
"""After this time without a message, the service counts as silent."""
NO_ANSWER: Final = "no answer from the service, trying again"
ANSWERS_AGAIN: Final = "the service answers again"

_KIND_WIDTH: Final = max(map(len, EventKind))
_STYLES: Final = {
    EventKind.GRANTED: "green",
    EventKind.RELEASED: "cyan",
    EventKind.EXPIRED: "yellow",
    EventKind.RENEWED: "dim",
    EventKind.LEASES_EXTENDED: "dim",
    EventKind.REPAIRED: "bold red",
    EventKind.RESTORED: "bold red",
}
_OTHER_STYLE: Final = "magenta"


@calls_server
def watch_events(
    fleet: FleetArgument,
    from_revision: Annotated[
        int | None,
        typer.Option("--from-revision", "--from", min=1, help="From this revision on.", show_default="from now on"),
    ] = None,
    kind: OfKind = None,
    holder: OfHolder = None,
    instance: OfInstance = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="End after this many events.", show_default="never")
    ] = None,
    server: ServerOptions = NO_OPTIONS,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Shows each change of a fleet as soon as it is made, until you press Ctrl-C. Servers may come and go meanwhile.

    If none answers for 6 seconds, stderr says so once, and again when one does.

    With --output json each event is one line. Exit code 1 with COMPACTED: the journal is no longer kept from there on.
    """
    with (
        connect(server) as client,
        client.watch(
            fleet,
            from_revision=from_revision or 0,
            kinds=kind,
            holder=holder,
            instance=instance,
            progress_interval=PROGRESS_S,
        ) as watch,
        SilenceNotice(SILENCE_S, _tell) as notice,
    ):
        events = (event for update in notice.listen(watch.updates()) for event in update.events)
        for event in islice(events, limit):
            if output is OutputFormat.JSON:
                print_json_line(event)
            else:
                print_line(draw_event(event, write_time(event.time)))


def _tell(sentence: str) -> None:
    # If nobody reads stderr any more, the watch still goes on.
    with contextlib.suppress(OSError):
        tell(sentence)


class SilenceNotice:
    """Says once that nothing comes any more, and once that it comes again. A context manager.

    Only waiting counts: the work on what came may take as long as it needs.
    """

    def __init__(self, after_s: float, tell: Callable[[str], None]) -> None:
        """`after_s` is how long nothing has to come, and `tell` what says it: in a thread, at any time."""
        self._after_s = after_s
        self._tell = tell
        self._waiting_since: float | None = None
        self._told = False
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look, name="blockyard-silence", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def listen(self, source: Iterable[T]) -> Iterator[T]:
        """The same items; each is a sign of life."""
        iterator = iter(source)
        while True:
            self._waiting_since = time.monotonic()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._waiting_since = None
            with self._lock:
                if self._told:
                    self._told = False
                    self._tell(ANSWERS_AGAIN)
            yield item

    def _look(self) -> None:
        while not self._closed.wait(self._after_s / 4):
            with self._lock:
                since = self._waiting_since
                if since is not None and not self._told and time.monotonic() - since > self._after_s:
                    self._told = True
                    self._tell(NO_ANSWER)


def draw_event(event: Event, time: str, *, within: str = "") -> Text:
    """An event on one line: its revision, this time, its kind in its colour, and what it was about.

    Names lose what they begin with, `within`, where that goes without saying.
    """
    kind = f"{event.kind:<{_KIND_WIDTH}}"
    style = _STYLES.get(event.kind, _OTHER_STYLE)
    what = describe_event(event).replace(within, "") if within else describe_event(event)
    return Text.assemble(f"{event.revision:>6}  {time}  ", (kind, style), f"  {what}")
