"""The keys of an issuer: which are used, when they are read, and what an issuer that misbehaves can change."""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from blockyard_server.rpc.auth.auth_file import DEFAULT_ALGORITHMS, IssuerEntry
from blockyard_server.rpc.auth.authenticator import Unauthenticated
from blockyard_server.rpc.auth.jwks import MAX_KEYS, JwksTimes, KeyCache, parse_keys
from blockyard_server.rpc.auth.jwks_source import MAX_JWKS_BYTES, FileSource, HttpsSource, JwksFailed
from tests.auth.issuer import AUDIENCE, ISS, Site, jwks, key_for, public_jwk, served
from tests.auth.sources import Memory
from tests.harness.patience import eventually

DAY_S = 86_400.0
FIRST = jwks(public_jwk(key_for("ES256"), "k1"))
SECOND = jwks(public_jwk(key_for("ES256"), "k1"), public_jwk(key_for("ES256", 1), "k2"))
THIRD = jwks(public_jwk(key_for("ES256", 1), "k2"))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with served(tmp_path) as site:
        site.body = FIRST
        yield site


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def entry(jwks_: str = "https://unused.example", ca: str | None = None) -> IssuerEntry:
    return IssuerEntry("k8s", ISS, AUDIENCE, jwks_, ca)


def cache_of(site: Site, **times: float) -> KeyCache:
    return KeyCache(entry(site.url, site.ca), times=JwksTimes(**times))


def hint_of(cache: KeyCache, key: str, algorithm: str = "ES256") -> str:
    with pytest.raises(Unauthenticated) as refused:
        cache.find(key, algorithm)
    return refused.value.hint


@asynccontextmanager
async def kept_fresh(cache: KeyCache) -> AsyncIterator[None]:
    cache.start()
    try:
        yield
    finally:
        await cache.stop()


def has(cache: KeyCache, *keys: str) -> "Callable[[], Any]":
    async def check() -> bool:
        return {key_id for key_id, _ in cache._keys} == set(keys)

    return check


# Which keys are used.


def test_keys_are_found_by_their_id_and_their_algorithms() -> None:
    keys = parse_keys(
        jwks(
            public_jwk(key_for("RS256"), "any"),
            public_jwk(key_for("RS256"), "one", alg="RS512"),
            public_jwk(key_for("ES256"), "ec"),
            public_jwk(key_for("EdDSA"), "ed"),
        ),
        ("RS256", "RS512", "ES256", "ES384", "EdDSA"),
    )

    assert set(keys) == {("any", "RS256"), ("any", "RS512"), ("one", "RS512"), ("ec", "ES256"), ("ed", "EdDSA")}


@pytest.mark.parametrize(
    "key",
    [
        {"kty": "oct", "kid": "bad", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"},
        {"kty": "oct", "kid": "bad", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "alg": "ES256", "crv": "P-256"},
        public_jwk(key_for("ES256"), "bad", use="enc"),
        public_jwk(key_for("ES256"), "bad", key_ops=["sign"]),
        public_jwk(key_for("ES256"), "bad", key_ops="verify"),
        public_jwk(key_for("ES256"), "bad", alg="HS256"),
        public_jwk(key_for("ES256"), "bad", alg=3),
        public_jwk(key_for("ES256"), "bad", crv="P-384"),
        public_jwk(key_for("ES256"), "bad", x="AAAA"),
        public_jwk(key_for("ES256"), "bad", x=3),
        public_jwk(key_for("RS256"), "bad", e="AA"),
        public_jwk(key_for("RS256"), "bad", n="AQAB"),
        public_jwk(key_for("RS256"), "bad", n=None),
        public_jwk(key_for("EdDSA"), "bad", x=""),
        public_jwk(key_for("EdDSA"), "bad", kty="EC"),
        public_jwk(key_for("ES384"), "bad"),
        public_jwk(key_for("ES256"), ""),
        public_jwk(key_for("ES256"), "k" * 257),
        public_jwk(key_for("ES256"), "bad", kid=3),
        {name: value for name, value in public_jwk(key_for("ES256"), "").items() if name != "kid"},
        {},
        [],
        None,
        "key",
    ],
)
def test_a_key_that_is_not_for_this_is_left_out_and_the_others_are_used(key: Any) -> None:
    assert set(parse_keys(jwks(key, public_jwk(key_for("ES256"), "good")), DEFAULT_ALGORITHMS)) == {("good", "ES256")}


def test_of_a_private_key_only_the_public_half_is_kept() -> None:
    from jwt.algorithms import ECAlgorithm  # noqa: PLC0415  # for this alone

    private: Any = key_for("ES256")
    (key,) = parse_keys(
        jwks(ECAlgorithm.to_jwk(private, as_dict=True) | {"kid": "k1", "key_ops": ["verify"]}), ("ES256",)
    ).values()

    assert not hasattr(key.key, "private_numbers")


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"keys": {}}',
        b'{"keys": []}',
        b"[" * 100_000,
        b"\xff",
        jwks(*[{}] * (MAX_KEYS + 1)),
    ],
)
def test_what_is_no_jwks_with_a_key_is_refused(document: bytes) -> None:
    with pytest.raises(JwksFailed, match="what was read"):
        parse_keys(document, DEFAULT_ALGORITHMS)


# Where they are read.


def test_keys_are_read_over_https_from_a_host_that_the_ca_vouches_for(site: Site) -> None:
    assert HttpsSource(site.url, site.ca).read() == FIRST
    with pytest.raises(JwksFailed, match="CERTIFICATE_VERIFY_FAILED"):
        HttpsSource(site.url, None).read()
    with pytest.raises(JwksFailed, match="No such file"):
        HttpsSource(site.url, "/nowhere/ca.pem").read()
    with pytest.raises(JwksFailed, match=r"mismatch|doesn't match|not valid for"):
        HttpsSource(site.url.replace("127.0.0.1", "localhost"), site.ca).read()


@pytest.mark.parametrize("status", [201, 204, 301, 302, 303, 307, 308, 401, 404, 500, 503])
def test_an_answer_other_than_ok_is_refused_and_a_redirect_is_not_followed(
    site: Site, tmp_path: Path, status: int
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    with served(folder) as other:
        other.body = SECOND
        site.status, site.headers = status, {"Location": other.url}
        with pytest.raises(JwksFailed, match=f"answers {status}"):
            HttpsSource(site.url, site.ca).read()
        assert (site.asked, other.asked) == (1, 0)


def test_an_answer_that_is_too_large_is_refused(site: Site) -> None:
    site.body = FIRST + b" " * (MAX_JWKS_BYTES - len(FIRST))
    assert HttpsSource(site.url, site.ca).read() == site.body
    site.body += b" "
    with pytest.raises(JwksFailed, match=f"larger than {MAX_JWKS_BYTES} bytes"):
        HttpsSource(site.url, site.ca).read()


async def test_a_host_that_never_answers_is_left_after_the_limit(site: Site) -> None:
    cache = cache_of(site, limit_s=0.2)
    for mode in ("hang", "drip"):
        site.mode = mode
        site.dropped.clear()
        assert not await cache.refresh()
        # The connection is ended, and the thread with it.
        assert await asyncio.to_thread(site.dropped.wait, 30)
        assert cache._thread is not None
        await asyncio.to_thread(cache._thread.join, 30)
        assert not cache._thread.is_alive()
    assert cache.failures == 2


async def test_while_a_read_hangs_no_second_one_begins(site: Site) -> None:
    class Stuck(Memory):
        def read(self) -> bytes | None:
            site.closing.wait()
            return super().read()

    cache = KeyCache(entry(), source=Stuck(FIRST), times=JwksTimes(limit_s=0.01))

    assert [await cache.refresh() for _ in range(3)] == [False] * 3
    assert cache._source.reads == 0  # type: ignore[attr-defined]  # a Memory
    site.closing.set()
    assert cache._thread is not None
    await asyncio.to_thread(cache._thread.join, 30)
    assert await cache.refresh()


def test_a_file_is_read_again_only_when_it_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(FIRST)
    source = FileSource(path)

    assert source.read() == FIRST
    assert source.read() is None
    path.write_bytes(SECOND)
    assert source.read() == SECOND
    path.unlink()
    with pytest.raises(JwksFailed, match="No such file"):
        source.read()
    path.write_bytes(SECOND)
    assert source.read() == SECOND
    path.write_bytes(b" " * (MAX_JWKS_BYTES + 1))
    for _ in range(2):
        with pytest.raises(JwksFailed, match="larger"):
            source.read()


def test_a_mounted_file_that_is_replaced_by_another_link_is_read_again(tmp_path: Path) -> None:
    """As Kubernetes does it: the file leads through `..data`, which is replaced."""
    for name, content in (("..1", FIRST), ("..2", SECOND)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "jwks.json").write_bytes(content)
        os.utime(tmp_path / name / "jwks.json", (0, 0))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "jwks.json").symlink_to("..data/jwks.json")
    source = FileSource(tmp_path / "jwks.json")

    assert source.read() == FIRST
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert source.read() == SECOND


async def test_a_file_that_is_no_jwks_stays_a_failure_as_long_as_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(b"half of")
    cache = KeyCache(entry(path.as_uri()))

    assert [await cache.refresh() for _ in range(3)] == [False] * 3
    path.write_bytes(FIRST)
    assert [await cache.refresh() for _ in range(3)] == [True] * 3
    assert cache.failures == 3


# How long they are kept.


async def test_keys_that_are_not_read_yet_refuse_and_nobody_waits(site: Site) -> None:
    cache = cache_of(site)

    cache.read_local()
    assert site.asked == 0
    assert hint_of(cache, "k1") == "keys_unavailable"
    assert await cache.refresh()
    assert cache.find("k1", "ES256").algorithm_name == "ES256"
    assert hint_of(cache, "k1", "RS256") == "algorithm_refused"
    assert hint_of(cache, "k2") == "unknown_key"


async def test_an_outage_keeps_the_keys_for_a_day(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    changes: list[int] = []
    cache = KeyCache(entry(site.url, site.ca), lambda: changes.append(1), monotonic=clock)
    assert await cache.refresh()
    kept = cache.find("k1", "ES256")

    for status, body in ((500, FIRST), (200, b"<html>"), (200, b'{"keys": []}'), (302, FIRST)):
        site.status, site.body = status, body
        assert not await cache.refresh()
        assert cache.find("k1", "ES256") is kept
    clock.now_s += DAY_S - 1
    assert not await cache.refresh()
    assert cache.find("k1", "ES256") is kept
    clock.now_s += 1
    assert not cache.knows("k1")
    assert hint_of(cache, "k1") == "keys_unavailable"
    assert cache.failures == 5

    site.status, site.body = 200, FIRST
    assert await cache.refresh()
    assert cache.find("k1", "ES256").algorithm_name == "ES256"
    assert len(changes) == 2
    assert [record.levelname for record in caplog.records if "cannot be read" in record.message] == ["WARNING", "ERROR"]


async def test_an_outage_is_told_once_in_ten_minutes_and_is_an_error_after_an_hour(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    source = Memory(FIRST)
    cache = KeyCache(entry(), source=source, monotonic=clock)
    assert await cache.refresh()
    source.document = None
    for _ in range(120):
        clock.now_s += 60
        assert not await cache.refresh()

    levels = [record.levelno for record in caplog.records if "cannot be read" in record.message]
    assert levels == [logging.WARNING] * 6 + [logging.ERROR] * 6
    assert "its last keys are used for" in caplog.text
    caplog.set_level(logging.INFO)
    source.document = FIRST
    assert await cache.refresh()
    assert "can be read again" in caplog.text


async def test_keys_are_replaced_and_a_removed_one_is_not_known_any_more(site: Site) -> None:
    changes: list[int] = []
    cache = KeyCache(entry(site.url, site.ca), lambda: changes.append(1))

    for body, keys, changed in ((FIRST, "k1", 1), (FIRST, "k1", 1), (SECOND, "k1 k2", 2), (THIRD, "k2", 3)):
        site.body = body
        assert await cache.refresh()
        assert [key for key in ("k1", "k2") if cache.knows(key)] == keys.split()
        assert len(changes) == changed


async def test_another_key_under_the_same_id_is_a_change() -> None:
    changes: list[int] = []
    for algorithm in ("ES256", "RS256", "EdDSA"):
        source = Memory(jwks(public_jwk(key_for(algorithm), "k1")))
        cache = KeyCache(entry(), lambda: changes.append(1), source=source)
        changes.clear()
        assert await cache.refresh()
        source.document = jwks(public_jwk(key_for(algorithm, 1), "k1"))
        assert await cache.refresh()
        assert len(changes) == 2


async def test_a_fault_of_ours_is_a_failed_read_and_no_end_of_reading(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(Memory):
        def read(self) -> bytes | None:
            raise ZeroDivisionError

    cache = KeyCache(entry(), source=Faulty(None))
    assert not await cache.refresh()
    assert "unexpectedly" in caplog.text


# When they are read.


async def test_keys_are_read_at_the_start_and_again_after_the_interval(site: Site) -> None:
    source = HttpsSource(site.url, site.ca)
    source.interval_s = 0.01
    cache = KeyCache(entry(), source=source)
    async with kept_fresh(cache):
        await eventually(has(cache, "k1"), "the first keys were read")
        site.body = SECOND
        await eventually(has(cache, "k1", "k2"), "the interval passed")


async def test_a_read_that_fails_is_repeated_sooner(site: Site) -> None:
    site.status = 500
    cache = cache_of(site, retry_s=0.01)
    async with kept_fresh(cache):
        assert await asyncio.to_thread(site.asked_event.wait, 30)
        site.status = 200
        await eventually(has(cache, "k1"), "the read was repeated")
    assert cache.failures >= 1


async def test_an_unknown_key_has_the_issuer_asked(site: Site) -> None:
    cache = cache_of(site, retry_s=0.01)
    async with kept_fresh(cache):
        await eventually(has(cache, "k1"), "the first keys were read")
        site.body = SECOND
        assert hint_of(cache, "k2") == "unknown_key"
        await eventually(has(cache, "k1", "k2"), "the issuer was asked for the key")


async def test_strangers_who_name_keys_do_not_have_the_issuer_asked_more_often() -> None:
    source = Memory(FIRST)
    cache = KeyCache(entry(), source=source, times=JwksTimes(retry_s=3600))
    async with kept_fresh(cache):
        await eventually(has(cache, "k1"), "the first keys were read")
        for number in range(1000):
            assert hint_of(cache, f"unknown-{number}") == "unknown_key"
            await asyncio.sleep(0.0001)
    assert source.reads == 1


async def test_the_end_does_not_wait_for_an_issuer(site: Site) -> None:
    site.mode = "hang"
    cache = cache_of(site, limit_s=3600)
    async with kept_fresh(cache):
        assert await asyncio.to_thread(site.asked_event.wait, 30)
    assert await asyncio.to_thread(site.dropped.wait, 30)


async def test_a_file_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(FIRST)
    cache = KeyCache(entry(path.as_uri()))
    cache._source.interval_s = 0.01
    cache.read_local()
    assert cache.find("k1", "ES256").algorithm_name == "ES256"
    async with kept_fresh(cache):
        path.write_bytes(b"half of")
        await eventually(_failed(cache), "the broken file was seen")
        assert cache.knows("k1")
        path.write_bytes(THIRD)
        await eventually(has(cache, "k2"), "the next file was seen")


def _failed(cache: KeyCache) -> "Callable[[], Any]":
    async def check() -> bool:
        return cache.failures > 0

    return check


def test_a_document_is_what_an_issuer_would_serve() -> None:
    """The tests' own documents are JWKS of RFC 7517, so that what they prove is not about something else."""
    (key,) = json.loads(FIRST)["keys"]
    assert isinstance(key, Mapping)
    assert key.keys() == {"kty", "crv", "x", "y", "kid", "use"}
