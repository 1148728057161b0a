"""The model check: the real service against plain Python, step by step, answer by answer.

A failure prints its steps, made few, with what both sides say. The same test fails again in the same way; to run only
the failure, put the printed `@reproduce_failure(…)` above `class Check` in `exploration.py`, and have `explore` begin
with the printed run instead of its first.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import Phase

from blockyard_server.store.sqlite.statements import DUE_LEASES
from tests.harness.postgres import Postgres
from tests.property.exploration import explore
from tests.property.world import Template

STEPS_IN_CI: Final = 5000
STEPS_TO_A_FAULT: Final = 2500
"""Within so many steps a planted fault is found."""
STEPS_OF_A_SOAK: Final = 1_000_000
SHARDS: Final = 8
"""The steps are run as so many tests, for as many processes."""
STEPS_OF_A_ROUND: Final = 10_000
"""How many steps of a soak are planned, run and forgotten together: Hypothesis remembers every example of a round."""


STEPS_TO_A_FAULT_ON_POSTGRES: Final = 1000
STEPS_ON_POSTGRES: Final = 500
"""In CI, with one server and with three."""
STEPS_OF_A_SOAK_ON_POSTGRES: Final = 20_000


@pytest.fixture
def template(tmp_path: Path) -> Iterator[Template]:
    made = Template(tmp_path)
    yield made
    made.close()


@pytest.fixture(params=[1, 3], ids=["one server", "three servers"])
def shared_template(tmp_path: Path, postgres: Postgres, request: pytest.FixtureRequest) -> Iterator[Template]:
    made = Template(tmp_path, postgres, servers=request.param)
    yield made
    made.close()


@pytest.mark.timeout(900)  # far more than it needs: a failure is made small before it is shown
@pytest.mark.parametrize("shard", [0, *(pytest.param(shard, marks=pytest.mark.slow) for shard in range(1, SHARDS))])
def test_the_service_answers_every_request_as_the_model_does(shard: int, template: Template) -> None:
    wanted = STEPS_IN_CI // SHARDS
    steps = explore(template, seed=shard, steps=wanted)
    assert steps >= wanted, "fewer steps were executed than planned"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_service_on_postgres_answers_every_request_as_the_model_does(shared_template: Template) -> None:
    steps = explore(shared_template, seed=shared_template.servers, steps=STEPS_ON_POSTGRES)
    assert steps >= STEPS_ON_POSTGRES, "fewer steps were executed than planned"


@pytest.mark.soak
@pytest.mark.skipif("BLOCKYARD_SOAK" not in os.environ, reason="`make soak` sets it")
@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_million_steps_agree(shard: int, template: Template, capfd: pytest.CaptureFixture[str]) -> None:
    wanted, done, rounds = STEPS_OF_A_SOAK // SHARDS, 0, 0
    begin = time.monotonic()
    while done < wanted:
        rounds += 1
        done += explore(template, seed=1_000_000 * (shard + 1) + rounds, steps=STEPS_OF_A_ROUND)
        with capfd.disabled():
            # To stderr: pytest's parallel processes have no stdout of their own.
            spent_s = time.monotonic() - begin
            sys.stderr.write(f"model check {shard + 1}/{SHARDS}: {done:,} of {wanted:,} steps, {spent_s:,.0f} s\n")
            sys.stderr.flush()
    assert done >= wanted


@pytest.mark.soak
@pytest.mark.skipif("BLOCKYARD_SOAK" not in os.environ, reason="`make soak` sets it")
def test_many_steps_agree_on_postgres(shared_template: Template) -> None:
    seed = 10_000 + shared_template.servers
    assert explore(shared_template, seed=seed, steps=STEPS_OF_A_SOAK_ON_POSTGRES) >= STEPS_OF_A_SOAK_ON_POSTGRES


_FAULTS: Final = {
    "blocks are chosen without looking for neighbours": (
        "blockyard_server.domain.placement.choose_blocks",
        lambda idle, count: sum(1 << block for block in [b for b in range(4096) if idle >> b & 1][:count]),
    ),
    "a token is answered whatever the request says": (
        "blockyard_server.domain.acquire.differing_fields",
        lambda _one, _other: (),
    ),
    "a longer lease is granted than the fleet allows": (
        "blockyard_server.domain.acquire.granted_ttl_us",
        lambda fields, asked_us: fields.default_ttl_us if asked_us is None else asked_us,
    ),
    "a release forgets to look at the holder": (
        "blockyard_server.domain.release.check_guards",
        lambda _state, _allocation, _request: None,
    ),
    "a lease lives on at the instant when it ends": (
        "blockyard_server.store.sqlite.statements.DUE_LEASES",
        DUE_LEASES.replace("<=", "<"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", _FAULTS)
def test_a_planted_fault_is_found(fault: str, template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*_FAULTS[fault])
    with pytest.raises(AssertionError):
        explore(template, seed=1, steps=STEPS_TO_A_FAULT, phases=(Phase.generate,))


_PLANTED_ON_POSTGRES: Final = "a longer lease is granted than the fleet allows"


@pytest.mark.slow
def test_a_planted_fault_is_found_on_postgres(shared_template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*_FAULTS[_PLANTED_ON_POSTGRES])
    with pytest.raises(AssertionError, match="The model says"):
        explore(shared_template, seed=1, steps=STEPS_TO_A_FAULT_ON_POSTGRES, phases=(Phase.generate,))
