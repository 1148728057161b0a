"""A fake server for each test, and one way to carry out a call with each of the two clients."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import pytest

from blockyard import AsyncClient, Client, RetryPolicy
from blockyard._call import Call
from tests.sdk.fake_server import FakeServer, serving
from tests.sdk.two_clients import Connect, awaiting, blocking

T = TypeVar("T")
Carrier = Callable[..., Any]
"""Carries out a call: (call, **options of the client) -> its answer."""

QUICK = RetryPolicy(initial_s=0.001, max_s=0.01)


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with serving(FakeServer()) as server:
        yield server


@pytest.fixture
def client(fake: FakeServer) -> Iterator[Client]:
    with Client(fake.target, retry=QUICK, timeout_s=20) as client:
        yield client


@pytest.fixture(params=[blocking, awaiting], ids=["blocking", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Opens one of the two clients for several steps: `with connect(target, **options) as steps`."""
    return partial(request.param, retry=QUICK)


@pytest.fixture(params=["blocking", "asyncio"])
def carry_out(request: pytest.FixtureRequest, fake: FakeServer) -> Carrier:
    def blocking(call: Call[T], **options: Any) -> T:
        with Client(fake.target, **{"retry": QUICK, "timeout_s": 20, **options}) as client:
            return client.call(call)

    async def awaiting(call: Call[T], **options: Any) -> T:
        async with AsyncClient(fake.target, **{"retry": QUICK, "timeout_s": 20, **options}) as client:
            return await client.call(call)

    if request.param == "blocking":
        return blocking
    return lambda call, **options: asyncio.run(awaiting(call, **options))
