"""What operators' tools ask over HTTP: the metrics, and whether the server is alive and ready. Off unless it is set.

Nothing here waits for the event loop or for the database, so that it answers whatever these do.
"""

from collections.abc import Callable, Mapping
from http import HTTPStatus

from blockyard_server.http_server import Answer, HttpServer, Page
from blockyard_server.metrics import ServerMetrics


class OpsServer:
    """Serves one server's pages while it is open."""

    def __init__(self, listen: str, metrics: ServerMetrics) -> None:
        """Raises OSError if the address cannot be listened on. `listen` is HOST:PORT; port 0 takes a free one."""
        self._metrics = metrics
        pages = {
            "/metrics": self._scrape,
            "/livez": _probe(metrics.why_not_alive),
            "/readyz": _probe(metrics.why_not_ready),
        }
        self._server = HttpServer(listen, pages)
        self.address = self._server.address

    def close(self) -> None:
        """Answers no more."""
        self._server.close()

    def _scrape(self, headers: Mapping[str, str]) -> Answer:
        body, content_type = self._metrics.render(headers.get("accept", ""))
        return Answer(HTTPStatus.OK, body, content_type)


def _probe(why_not: Callable[[], str | None]) -> Page:
    def answer(_headers: Mapping[str, str]) -> Answer:
        reason = why_not()
        if reason is None:
            return Answer(HTTPStatus.OK, b"ok\n")
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}\n".encode())

    return answer
