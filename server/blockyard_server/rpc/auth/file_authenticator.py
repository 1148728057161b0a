"""Finds the principal of a call by the auth file, and follows the file as it changes.

A bearer decides: if there is one, the certificate is not looked at, so that a bad token is never made good by it. A
file that cannot be used changes nothing: the last good one stays in use, and the log has a line for each problem.
"""

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from blockyard_server.rpc.audit_log import write_line
from blockyard_server.rpc.auth.auth_file import AuthFile, AuthFileRefused, load_auth_file
from blockyard_server.rpc.auth.authenticator import Certificate, Metadata, Unauthenticated
from blockyard_server.rpc.auth.directory import Directory, FilePrincipal, JwtProof
from blockyard_server.rpc.auth.failed_logins import FailedLogins
from blockyard_server.rpc.auth.hints import Hint, Scheme
from blockyard_server.rpc.auth.jwks_source import signature_of
from blockyard_server.rpc.auth.principal import Principal
from blockyard_server.rpc.auth.tokens import is_token

if TYPE_CHECKING:
    # PyJWT is an extra: it is needed only where the auth file has an issuer.
    from blockyard_server.rpc.auth.jwks import KeyCache
    from blockyard_server.rpc.auth.jwt import JwtVerifier

AUTHORIZATION: Final = "authorization"
POLL_S: Final = 2.0
SETTLE_S: Final = 0.2
"""A changed file is read only after it has stayed the same for this time: it may be written piece by piece."""
MAX_SETTLES: Final = 10
MAX_CACHED_JWTS: Final = 10_000
JWT_CACHED_S: Final = 300.0
MAX_REVOKED: Final = 10_000
"""Tokens of earlier files that are remembered, to tell in the log a revoked one from an unknown one."""
MAX_NAMED_CHANGES: Final = 20

_is_bearer: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*").fullmatch
_PREFIX: Final = "Bearer "
_PREFIX_LENGTH: Final = len(_PREFIX)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _State:
    """All that follows from one auth file."""

    directory: Directory
    jwt: "JwtVerifier | None"


@dataclass(slots=True)
class AuthFileStatus:
    """How the following of the file goes, for metrics."""

    last_success_s: float = 0.0
    """When a file was last taken, in seconds since the epoch."""
    failures: int = 0
    """Files that were refused."""
    problems: tuple[str, ...] = ()
    """Of the file that is there now; empty: it is the one in use."""


class FileAuthenticator:
    """An `Authenticator` over an auth file, for one event loop. Between `start` and `stop` it follows the file."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        """Reads the file. Raises AuthFileRefused."""
        self.status = AuthFileStatus()
        self.failed_logins = FailedLogins()
        self._path = path
        self._now = now
        self._jwts: dict[bytes, tuple[FilePrincipal, float]] = {}
        """By digest: the principal, and until when it may be taken from here."""
        self._revoked: dict[bytes, str] = {}
        self._asked = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._signature = signature_of(path)
        self._state = self._read(None)
        self._tokens = self._state.directory.tokens
        self.status.last_success_s = now()
        _tell_doubts(self._state.directory.file)

    @property
    def file(self) -> AuthFile:
        """The file in use."""
        return self._state.directory.file

    @property
    def keys(self) -> "Mapping[str, KeyCache]":
        """The keys of each issuer, by its name."""
        return {} if self._state.jwt is None else self._state.jwt.keys

    def authenticate(self, metadata: Metadata, certificate: Certificate) -> Principal:
        """The principal. Raises Unauthenticated. Never waits."""
        value: str | bytes | None = None
        for key, each in metadata:
            if key == AUTHORIZATION:
                if value is not None:
                    raise Unauthenticated(Scheme.BEARER, Hint.GIVEN_TWICE)
                value = each
        if value is None:
            return self._state.directory.of_certificate(certificate)
        if not isinstance(value, str) or not value.isascii():
            raise Unauthenticated(Scheme.BEARER, Hint.MALFORMED)
        if not value.startswith(_PREFIX) and value[:_PREFIX_LENGTH].lower() != _PREFIX.lower():
            raise Unauthenticated(Scheme.BEARER, Hint.NOT_BEARER)
        bearer = value[_PREFIX_LENGTH:]
        sha256 = hashlib.sha256(bearer.encode()).digest()
        principal = self._tokens.get(sha256)
        if principal is None:
            return self._of_other_bearer(bearer, sha256)
        if principal.expires_s is not None and self._now() >= principal.expires_s:
            raise Unauthenticated(Scheme.TOKEN, Hint.EXPIRED, principal.via)
        return principal

    def note_refusal(self, peer: str, stranger: Unauthenticated) -> None:
        """Counts and logs it."""
        self.failed_logins.note(peer, stranger)

    def is_still_valid(self, principal: Principal) -> bool:
        """Whether a long call may go on: the proof is still good, and leads to the same principal and rights."""
        if not isinstance(principal, FilePrincipal):
            return False
        if principal.expires_s is not None and self._now() >= principal.expires_s:
            return False
        state = self._state
        proof = principal.proof
        if isinstance(proof, JwtProof) and (state.jwt is None or not state.jwt.still_verifies(proof)):
            return False
        return state.directory.still_has(principal)

    def start(self) -> None:
        """Begins to follow the file, and the keys of its issuers."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name="blockyard-auth-file")
            for cache in self.keys.values():
                cache.start()

    async def stop(self) -> None:
        """Ends that. The principals and keys stay as they are."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        for cache in self.keys.values():
            await cache.stop()

    def reload(self) -> None:
        """Has the file read soon, changed or not: for SIGHUP."""
        self._asked.set()

    async def reload_now(self) -> bool:
        """Reads the file. False: it cannot be used, and the last good one goes on."""
        async with self._reloading:
            return await self._reload()

    async def _reload(self) -> bool:
        signature = await asyncio.to_thread(signature_of, self._path)
        for _ in range(MAX_SETTLES):
            await asyncio.sleep(SETTLE_S)
            before, signature = signature, await asyncio.to_thread(signature_of, self._path)
            if signature == before:
                break
        self._signature = signature
        try:
            state = await asyncio.to_thread(self._read, self._state)
        except AuthFileRefused as refused:
            self.status.failures += 1
            self.status.problems = refused.problems
            for problem in refused.problems:
                _log.error("the auth file is refused, and the last good one goes on: %s", problem)
            return False
        await self._take(state)
        return True

    async def _follow(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._asked.wait()
            try:
                asked = self._asked.is_set()
                self._asked.clear()
                if asked or await asyncio.to_thread(signature_of, self._path) != self._signature:
                    await self.reload_now()
                self.failed_logins.flush()
            except Exception:  # noqa: BLE001  # whatever it is, the next change of the file must be seen
                self.status.failures += 1
                _log.exception("the auth file cannot be followed: unexpectedly; the last good one goes on")

    def _read(self, before: _State | None) -> _State:
        """What the file makes of it. Keys that are known are kept. Raises AuthFileRefused."""
        directory = Directory(load_auth_file(self._path))
        if not directory.file.issuers:
            return _State(directory, None)
        try:
            from blockyard_server.rpc.auth.jwks import KeyCache  # noqa: PLC0415  # an extra
            from blockyard_server.rpc.auth.jwt import JwtVerifier  # noqa: PLC0415  # an extra
        except ModuleNotFoundError as missing:
            problem = f"an issuer needs a part that is not installed ({missing.name}): pip install 'blockyard[jwt]'"
            raise AuthFileRefused([problem]) from missing
        known = {} if before is None or before.jwt is None else before.jwt.keys
        keys: dict[str, KeyCache] = {}
        for issuer in directory.file.issuers:
            cache = known.get(issuer.name)
            if cache is None or not cache.is_of(issuer):
                cache = KeyCache(issuer, self._jwts.clear)
                cache.read_local()
            keys[issuer.name] = cache
        return _State(directory, JwtVerifier(directory.issuers, keys, self._now))

    async def _take(self, state: _State) -> None:
        before = self._state
        old_keys = self.keys
        self._state = state
        self._tokens = state.directory.tokens
        self._jwts.clear()
        self._remember_revoked(before.directory, state.directory)
        self.status.last_success_s = self._now()
        self.status.problems = ()
        _tell_changes(before.directory.file, state.directory.file)
        _tell_doubts(state.directory.file)
        if self._task is not None:
            for cache in self.keys.values():
                cache.start()
        for name, cache in old_keys.items():
            if self.keys.get(name) is not cache:
                await cache.stop()

    def _of_other_bearer(self, bearer: str, sha256: bytes) -> FilePrincipal:
        """Not a token of the file: a JWT, or nobody's. Raises Unauthenticated."""
        cached = self._jwts.get(sha256)
        if cached is not None:
            principal, until_s = cached
            if self._now() < until_s:
                return principal
            del self._jwts[sha256]
        revoked = self._revoked.get(sha256)
        if revoked is not None:
            raise Unauthenticated(Scheme.TOKEN, Hint.REVOKED, revoked)
        if is_token(bearer):
            raise Unauthenticated(Scheme.TOKEN, Hint.UNKNOWN)
        if bearer.count(".") == 2:  # noqa: PLR2004  # the parts of a JWT
            return self._of_jwt(bearer, sha256)
        raise Unauthenticated(Scheme.BEARER, Hint.UNKNOWN if _is_bearer(bearer) else Hint.MALFORMED)

    def _of_jwt(self, bearer: str, sha256: bytes) -> FilePrincipal:
        verifier = self._state.jwt
        if verifier is None:
            raise Unauthenticated(Scheme.JWT, Hint.UNKNOWN_ISSUER)
        verified = verifier.verify(bearer)
        principal = self._state.directory.of_jwt(verified)
        now_s = self._now()
        until_s = min(verified.exp_s, now_s + JWT_CACHED_S)
        if now_s < until_s:
            if len(self._jwts) >= MAX_CACHED_JWTS:
                del self._jwts[next(iter(self._jwts))]
            self._jwts[sha256] = principal, until_s
        return principal

    def _remember_revoked(self, before: Directory, after: Directory) -> None:
        for sha256, principal in before.tokens.items():
            if sha256 not in after.tokens:
                self._revoked[sha256] = principal.via
        for sha256 in after.tokens:
            self._revoked.pop(sha256, None)
        while len(self._revoked) > MAX_REVOKED:
            del self._revoked[next(iter(self._revoked))]


def _tell_doubts(file: AuthFile) -> None:
    for warning in file.warnings[:MAX_NAMED_CHANGES]:
        _log.warning("auth file: %s", warning)


def _tell_changes(before: AuthFile, after: AuthFile) -> None:
    """Who came, went and changed. Ids alone."""
    old = {f"issuer {each.name}": each for each in before.issuers} | {each.id: each for each in before.principals}
    new = {f"issuer {each.name}": each for each in after.issuers} | {each.id: each for each in after.principals}
    write_line(
        logging.INFO,
        "auth_file_read",
        added=_named(new.keys() - old.keys()),
        removed=_named(old.keys() - new.keys()),
        changed=_named(name for name in old.keys() & new.keys() if old[name] != new[name]),
    )


def _named(ids: Iterable[str]) -> list[str]:
    found = sorted(ids)
    more = len(found) - MAX_NAMED_CHANGES
    return [*found[:MAX_NAMED_CHANGES], f"and {more} more"] if more > 0 else found
