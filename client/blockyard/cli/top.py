"""`blockyard top`: a fleet's blocks and its latest events, live."""

import threading
import time
from collections import deque
from math import inf
from typing import Final, Self

from rich.console import Console, Group
from rich.live import Live

from blockyard.cli.connection import connect
from blockyard.cli.keys import pressed_keys
from blockyard.cli.options import FleetArgument
from blockyard.cli.output import ascii_only, drawing_width, goes_to_terminal, screen
from blockyard.cli.server_choice import NO_OPTIONS, ServerOptions
from blockyard.cli.server_options import calls_server
from blockyard.cli.top_frame import EVENTS_KEPT, Frame, draw_frame
from blockyard.cli.watch import NO_ANSWER
from blockyard.client import Client
from blockyard.enums import DescribeView
from blockyard.errors import BlockyardError, Compacted, DeadlineExceeded, FleetNotFound, Unavailable
from blockyard.types import Event, FleetPage
from blockyard.watch import Watch

REFRESH_S: Final = 0.25
"""Between two looks at the keys, and at what has changed: however fast that is, the fleet is read no more often."""
REDRAW_S: Final = 5.0
"""The picture is never older than this. A server that no longer answers makes no change, so only a read shows it."""
PATIENCE_S: Final = 2.0
"""How long a look at the fleet may take; `q` waits as long."""
FIRST_EVENTS_S: Final = 5.0
"""How long the one picture that goes to a pipe waits for the events before it."""
PIPE_LINES: Final = 40
"""How long that picture is."""
MAX_PAGE: Final = 1000


@calls_server
def top(fleet: FleetArgument, server: ServerOptions = NO_OPTIONS) -> None:
    """Draws a fleet and its latest events, again at each change and every 5 seconds. `q` or Ctrl-C ends it.

    Shows as many instances as there is room for, in the order of registration. Without a terminal it draws once.
    """
    console = screen()
    with connect(server) as client, _Feed(client, fleet) as feed:
        if goes_to_terminal():
            _show(console, feed)
        else:
            feed.wait()
            for line in draw_frame(feed.frame(PIPE_LINES), width=drawing_width(console), ascii_only=ascii_only()):
                console.print(line, soft_wrap=True)


def _show(console: Console, feed: "_Feed") -> None:
    with (
        pressed_keys() as pressed,
        Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live,
    ):
        size = None
        drawn_at = -inf
        while True:
            if feed.changed.is_set() or console.size != size or time.monotonic() - drawn_at >= REDRAW_S:
                feed.changed.clear()
                drawn_at = time.monotonic()
                size = console.size
                lines = draw_frame(feed.frame(size.height), width=size.width, ascii_only=ascii_only(), footer="q ends")
                live.update(Group(*lines), refresh=True)
            if pressed(REFRESH_S) in ("q", "Q", "\x04"):
                return


class _Feed:
    """What is drawn: the latest events, gathered by a thread, and the fleet as it was when it was last asked for."""

    def __init__(self, client: Client, fleet: str) -> None:
        self.changed = threading.Event()
        """There is something new to draw."""
        self._client = client
        self._fleet = fleet
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._lock = threading.Lock()
        self._page: FleetPage = client.describe_page(fleet, view=DescribeView.FULL, page_size=1)
        self._failure: BlockyardError | None = None
        self._watch: Watch = client.watch(fleet, from_revision=max(self._page.revision - EVENTS_KEPT, 0) + 1)
        self._caught_up = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="blockyard-top", daemon=True)

    def __enter__(self) -> Self:
        self.changed.set()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.close()
        self._thread.join(PATIENCE_S)

    def wait(self) -> None:
        """Until the events of before are there, but not for long."""
        self._caught_up.wait(FIRST_EVENTS_S)

    def frame(self, height: int) -> Frame:
        """What to draw now, on at most this number of lines. Raises what the watch has failed with."""
        if self._failure is not None:
            raise self._failure
        note = ""
        try:
            self._page = self._client.describe_page(
                self._fleet, view=DescribeView.FULL, page_size=min(max(height, 1), MAX_PAGE), timeout_s=PATIENCE_S
            )
        except (Unavailable, DeadlineExceeded):
            note = NO_ANSWER
            self.changed.set()
        except FleetNotFound:
            note = "the fleet was deleted"
        with self._lock:
            return Frame(self._page, tuple(self._events), height, note)

    def _follow(self) -> None:
        try:
            try:
                self._gather()
            except Compacted as gone:
                self._watch = self._client.watch(self._fleet, from_revision=int(gone.metadata["oldest_revision"]))
                self._gather()
        except BlockyardError as failure:
            self._failure = failure
            self.changed.set()
        finally:
            self._caught_up.set()

    def _gather(self) -> None:
        for update in self._watch.updates():
            with self._lock:
                self._events.extend(update.events)
            if update.events:
                self.changed.set()
            if update.revision >= self._page.revision:
                self._caught_up.set()
