"""The public keys of an issuer, kept fresh in the background, and kept when the issuer cannot be reached.

A JWT's key is found here at once or not at all: nothing waits for an issuer, not even the start. A read
that fails changes nothing: the keys go on for a day, and the log says so. A key that is not known makes the issuer be
asked, every half minute at most, however many strangers name keys that do not exist.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import jwt

from blockyard_server.rpc.auth.auth_file import IssuerEntry
from blockyard_server.rpc.auth.auth_file_rules import ALGORITHMS
from blockyard_server.rpc.auth.authenticator import Unauthenticated
from blockyard_server.rpc.auth.hints import Hint, Scheme
from blockyard_server.rpc.auth.jwks_source import TIMEOUT_S, JwksFailed, JwksSource, source_of
from blockyard_server.rpc.fields import quoted

MAX_KEYS: Final = 100
MAX_KEY_ID_LENGTH: Final = 256
_PUBLIC: Final = ("kty", "n", "e", "crv", "x", "y")
"""The members that a key is made of: whatever else is in the document, no private and no symmetric key is ever made."""

_log = logging.getLogger(__name__)

Keys = Mapping[tuple[str, str], jwt.PyJWK]
"""By key id and algorithm: a key verifies only what it was made for."""


@dataclass(frozen=True, slots=True)
class JwksTimes:
    """When an issuer is asked, in seconds."""

    limit_s: float = TIMEOUT_S
    """One read takes no longer."""
    retry_s: float = 30.0
    """After a read that failed; and for a key that is not known, since the last read."""
    alarm_s: float = 3600.0
    """Failures are errors in the log once no read has succeeded for this time."""
    keep_s: float = 86_400.0
    """How long keys are used after the last read that succeeded."""
    log_s: float = 600.0
    """Between two lines about failures."""


class KeyCache:
    """One issuer's keys. `start` it in the event loop that asks it."""

    def __init__(
        self,
        issuer: IssuerEntry,
        on_change: Callable[[], None] = lambda: None,
        *,
        source: JwksSource | None = None,
        times: JwksTimes | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_change` is called when other keys than before are valid."""
        self.issuer = issuer
        self.on_change = on_change
        self.failures = 0
        """Reads that failed."""
        self.read_s: float | None = None
        """When a read last succeeded, by `monotonic`; None: not yet."""
        self._source = source_of(issuer) if source is None else source
        self._times = JwksTimes() if times is None else times
        self._monotonic = monotonic
        self._keys: Keys = {}
        self._attempt_s = float("-inf")
        self._failing_since_s: float | None = None
        self._logged_s = float("-inf")
        self._wanted = asyncio.Event()
        self._thread: threading.Thread | None = None
        """Of a read that nobody waits for any more."""
        self._task: asyncio.Task[None] | None = None

    def is_of(self, issuer: IssuerEntry) -> bool:
        """Whether the keys of this entry are these."""
        return all(getattr(issuer, name) == getattr(self.issuer, name) for name in ("jwks", "ca", "algorithms"))

    def find(self, key_id: str, algorithm: str) -> jwt.PyJWK:
        """The key that must have signed a JWT with this header. Raises Unauthenticated."""
        via = f"jwt:{self.issuer.name}"
        if not self.has_keys:
            self._wanted.set()
            raise Unauthenticated(Scheme.JWT, Hint.KEYS_UNAVAILABLE, via)
        key = self._keys.get((key_id, algorithm))
        if key is not None:
            return key
        if self.knows(key_id):
            raise Unauthenticated(Scheme.JWT, Hint.ALGORITHM_REFUSED, via)
        self._wanted.set()
        raise Unauthenticated(Scheme.JWT, Hint.UNKNOWN_KEY, via)

    @property
    def has_keys(self) -> bool:
        """Whether the keys were read, and not too long ago."""
        return self.read_s is not None and self._monotonic() - self.read_s < self._times.keep_s

    def knows(self, key_id: str) -> bool:
        """Whether a JWT may have been signed with this key."""
        return self.has_keys and any(each == key_id for each, _ in self._keys)

    def read_local(self) -> None:
        """Reads the keys now if they are on this machine, so that a start does not begin with refusals."""
        if self._source.is_local:
            try:
                self._take(self._read())
            except JwksFailed as failed:
                self._note_failure(failed)

    def start(self) -> None:
        """Begins to keep the keys fresh."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep_fresh(), name=f"blockyard-jwks-{self.issuer.name}")

    async def stop(self) -> None:
        """Ends that. The keys stay as they are."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def refresh(self) -> bool:
        """Reads the keys once. False: that failed, and they are as before."""
        self._attempt_s = self._monotonic()
        try:
            self._take(await self._read_aside())
        except JwksFailed as failed:
            self._note_failure(failed)
            return False
        return True

    async def _keep_fresh(self) -> None:
        while True:
            interval_s = self._source.interval_s
            if not await self.refresh():
                interval_s = min(interval_s, self._times.retry_s)
            self._wanted.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await self._wanted.wait()
                    await asyncio.sleep(self._attempt_s + self._times.retry_s - self._monotonic())

    async def _read_aside(self) -> Keys | None:
        """Reads in a thread of its own. One that hangs keeps neither the event loop nor the end of the process."""
        if self._thread is not None and self._thread.is_alive():
            raise JwksFailed("the last read has not ended yet")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Keys | None] = loop.create_future()

        def read() -> None:
            found: Keys | Exception | None
            try:
                found = self._read()
            except JwksFailed as error:
                found = error
            except Exception as error:  # noqa: BLE001  # a fault must not end the refreshing
                _log.exception("the keys of the issuer %s cannot be read: unexpectedly", self.issuer.name)
                found = JwksFailed(type(error).__name__)
            with suppress(RuntimeError):  # the event loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_resolve, done, found)

        thread = threading.Thread(target=read, name=f"blockyard-jwks-{self.issuer.name}", daemon=True)
        thread.start()
        try:
            async with asyncio.timeout(self._times.limit_s):
                return await done
        except TimeoutError as error:
            raise JwksFailed(f"{self.issuer.jwks} has not answered within {self._times.limit_s:g} s") from error
        finally:
            if done.cancelled():
                self._thread = thread
                self._source.abort()

    def _read(self) -> Keys | None:
        """Raises JwksFailed."""
        data = self._source.read()
        try:
            return None if data is None else parse_keys(data, self.issuer.algorithms)
        except JwksFailed:
            self._source.forget()
            raise

    def _take(self, keys: Keys | None) -> None:
        expired = self.read_s is not None and not self.has_keys
        self.read_s = self._monotonic()
        if self._failing_since_s is not None:
            self._failing_since_s = None
            self._logged_s = float("-inf")
            _log.info("the keys of the issuer %s can be read again", self.issuer.name)
        if keys is None:
            return
        changed = expired or {name: _content(key) for name, key in keys.items()} != {
            name: _content(key) for name, key in self._keys.items()
        }
        self._keys = keys
        if changed:
            names = ", ".join(sorted({quoted(key_id) for key_id, _ in keys}))
            _log.info("the issuer %s has the keys %s", self.issuer.name, names)
            self.on_change()

    def _note_failure(self, failed: JwksFailed) -> None:
        now_s = self._monotonic()
        self.failures += 1
        if self._failing_since_s is None:
            self._failing_since_s = now_s if self.read_s is None else self.read_s
        if now_s - self._logged_s < self._times.log_s:
            return
        self._logged_s = now_s
        failing_s = now_s - self._failing_since_s
        level = logging.ERROR if failing_s >= self._times.alarm_s else logging.WARNING
        if self.has_keys:
            left_s = max(0.0, self._times.keep_s - failing_s)
            effect = f"its last keys are used for {left_s:.0f} s more"
        else:
            effect = "its JWTs are refused"
        _log.log(level, "the keys of the issuer %s cannot be read: %s; %s", self.issuer.name, failed, effect)


def parse_keys(data: bytes, algorithms: tuple[str, ...]) -> Keys:
    """The keys of a JWKS that can verify one of the algorithms. Raises JwksFailed if there is none.

    A document without a usable key is taken for a fault of the issuer: it must not end the keys that are known.
    """
    try:
        listed = json.loads(data)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise JwksFailed("what was read is no JWKS") from error
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise JwksFailed(f"what was read is no JWKS with at most {MAX_KEYS} keys")
    found: dict[tuple[str, str], jwt.PyJWK] = {}
    for each in listed:
        if _is_for_signatures(each):
            for algorithm in algorithms:
                key = _make_key(each, algorithm)
                if key is not None:
                    found.setdefault((each["kid"], algorithm), key)
    if not found:
        raise JwksFailed(f"what was read has no key for {', '.join(algorithms)}")
    return found


def _is_for_signatures(key: object) -> bool:
    if not isinstance(key, dict) or key.get("use", "sig") != "sig":
        return False
    operations = key.get("key_ops", ["verify"])
    key_id = key.get("kid")
    return (
        isinstance(operations, list)
        and "verify" in operations
        and isinstance(key_id, str)
        and 0 < len(key_id) <= MAX_KEY_ID_LENGTH
    )


def _make_key(key: Mapping[str, Any], algorithm: str) -> jwt.PyJWK | None:
    """The key for one algorithm; None if it is of another kind, too short, or malformed."""
    kind, curve = ALGORITHMS[algorithm]
    if key.get("kty") != kind or key.get("alg", algorithm) != algorithm or (curve and key.get("crv") != curve):
        return None
    try:
        made = jwt.PyJWK({name: key[name] for name in _PUBLIC if name in key}, algorithm)
        too_short = made.Algorithm.check_key_length(made.key)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError) as error:
        _log.warning("the key %s of a JWKS cannot be used: %s", quoted(key["kid"]), type(error).__name__)
        return None
    if too_short:
        _log.warning("the key %s of a JWKS is too short to be used", quoted(key["kid"]))
        return None
    return made


def _content(key: jwt.PyJWK) -> object:
    """What makes two keys the same one."""
    numbers: Any = key.key
    return key.algorithm_name, numbers.public_numbers() if hasattr(
        numbers, "public_numbers"
    ) else numbers.public_bytes_raw()


def _resolve(done: "asyncio.Future[Keys | None]", found: "Keys | Exception | None") -> None:
    if done.done():
        return
    if isinstance(found, Exception):
        done.set_exception(found)
    else:
        done.set_result(found)
