"""What the tests ask of a real client: send a JSON request, show the JSON answer, or the error with its details."""

from abc import ABC, abstractmethod
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Self

PATIENCE_S: Final = 60
"""No call takes nearly as long; a client that hangs is a failed test."""

Json = dict[str, Any]
"""A message with the names of the protos, int64 as text, default values left out."""


class Refusal(Exception):
    """The error that a client has seen. `details` are messages of google.rpc, each with its type under `@type`."""

    def __init__(self, status: str, message: str, details: list[Json]) -> None:
        super().__init__(f"{status}: {message} {details}")
        self.status = status
        self.message = message
        self.details = [{**each, "@type": each["@type"].rpartition("/")[2]} for each in details]

    @property
    def error_info(self) -> Json:
        """The one google.rpc.ErrorInfo."""
        (info,) = (each for each in self.details if each["@type"] == "google.rpc.ErrorInfo")
        return info

    @property
    def reason(self) -> str:
        """Why, as a word of blockyard.reasons."""
        reason: str = self.error_info["reason"]
        return reason

    @property
    def other_details(self) -> list[Json]:
        """All details but the ErrorInfo."""
        return [each for each in self.details if each["@type"] != "google.rpc.ErrorInfo"]


@dataclass(frozen=True)
class EndedWatch:
    """A health watch after its end."""

    states: list[str]
    """What it told, in order."""
    refusal: Refusal
    """How it ended."""


class HealthWatch(ABC):
    """A stream of health states, open."""

    @abstractmethod
    def first_state(self) -> str:
        """Waits for the first state."""

    @abstractmethod
    def ended(self) -> EndedWatch:
        """Waits for the end, which the server brings about with an error."""


class FleetWatch(ABC):
    """A stream of blockyard.v1.Allocator/Watch."""

    @abstractmethod
    def next(self) -> Json:
        """Waits for the next answer."""

    @abstractmethod
    def stop_reading(self) -> None:
        """Takes nothing from the connection any more, until `rest` is asked for."""

    @abstractmethod
    def rest(self) -> tuple[list[Json], Refusal]:
        """The other answers, and the error that the server ends it with."""

    @abstractmethod
    def close(self) -> None:
        """Leaves it."""


class RealClient(ABC):
    """A client that shares no code with ours."""

    @abstractmethod
    def with_token(self, token: str | None) -> Self:
        """The same client, which sends this token with each call, or none. It ends with this one."""

    @abstractmethod
    def submit(self, method: str, request: Json) -> "Future[Json]":
        """Sends a request to `Service/Method` of blockyard.v1; the future has the answer, or raises Refusal."""

    @abstractmethod
    def watch_health(self) -> HealthWatch:
        """Opens grpc.health.v1.Health/Watch over the whole server."""

    @abstractmethod
    def watch(self, request: Json) -> FleetWatch:
        """Opens blockyard.v1.Allocator/Watch."""

    @abstractmethod
    def duration(self, milliseconds: int) -> object:
        """A google.protobuf.Duration in the form that this client takes."""

    def call(self, method: str, request: Json) -> Json:
        """Sends a request and waits for its answer. Raises Refusal."""
        return self.submit(method, request).result(PATIENCE_S)

    def refusal(self, method: str, request: Json) -> Refusal:
        """Sends a request that is to be refused."""
        try:
            answer = self.call(method, request)
        except Refusal as refusal:
            return refusal
        raise AssertionError(f"{method} was not refused, but answered {answer}")
