"""Times and durations of the domain (whole microseconds) in protobuf.

The messages are filled in place: assigning two numbers is several times cheaper than a constructor, and
setting a field, even to 0, makes the message present.
"""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp


def fill_timestamp(timestamp: Timestamp, time_us: int) -> None:
    """Sets a time, given in microseconds since the epoch."""
    seconds, micros = divmod(time_us, 1_000_000)
    timestamp.seconds = seconds
    timestamp.nanos = micros * 1000


def fill_duration(duration: Duration, span_us: int) -> None:
    """Sets a duration, given in microseconds, not negative."""
    seconds, micros = divmod(span_us, 1_000_000)
    duration.seconds = seconds
    duration.nanos = micros * 1000
