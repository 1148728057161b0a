"""Two real logs, replayed on the core alone, come to exactly the published decisions."""

import csv
import hashlib
import heapq
from pathlib import Path

import pytest

from blockyard_server.domain.errors import Refused
from blockyard_server.domain.requests import (
    Acquire,
    CreateInstance,
    Demand,
    InstanceFields,
    PlacementStrategy,
    Release,
    Selector,
)
from tests.unit.pure_fleet import BEST_FIT, FIRST_FIT, WORST_FIT, PureFleet, term

TRACES = Path(__file__).parents[3] / "shared" / "traces"

pytestmark = pytest.mark.skipif(
    not TRACES.is_dir(), reason="the real logs are not here: they stand beside the project, in ../shared/traces"
)


def rows_of(name: str) -> list[dict[str, str]]:
    with (TRACES / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def filled_fleet(instances: str) -> PureFleet:
    fleet = PureFleet()
    for row in rows_of(instances):
        labels = {"label": row["label"]} if row["label"] else {}
        fleet.do(CreateInstance("gpu", row["name"], InstanceFields(int(row["total_blocks"]), labels)))
    return fleet


def wish_of(number: int, row: dict[str, str], strategy: PlacementStrategy) -> Acquire:
    alternatives = row["label_any"].split("|") if row["label_any"] else []
    selector: Selector = (term("label", "IN", *alternatives),) if alternatives else ()
    demand = Demand(int(row["n_instances"]), int(row["blocks"]), selector=selector)
    return Acquire("gpu", "replay", str(number), row["owner"] or "nobody", (demand,), strategy)


def replayed(log: str, requests: str, strategy: PlacementStrategy, *, hold: bool) -> tuple[int, str]:
    """How many requests were accepted, and the digest of all decisions."""
    fleet = filled_fleet(f"{log}/instances.csv")
    rows = rows_of(f"{log}/{requests}")
    decisions = ["-"] * len(rows)
    running: list[tuple[int, int, int]] = []  # (end, row number, allocation)
    for arrival_s, number in sorted((int(row["arrival_s"] or 0), number) for number, row in enumerate(rows)):
        while running and running[0][0] <= arrival_s:
            fleet.do(Release("gpu", "replay", heapq.heappop(running)[2]))
        row = rows[number]
        try:
            allocation = fleet.do(wish_of(number, row, strategy)).view.allocation
        except Refused:
            continue
        decisions[number] = ",".join(name for name, _ in allocation.placements)
        if row["duration_s"] and not hold:
            heapq.heappush(running, (arrival_s + int(row["duration_s"]), number, allocation.allocation))
    text = "".join(f"{row['id']}:{decision};" for row, decision in zip(rows, decisions, strict=True))
    return len(rows) - decisions.count("-"), hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("strategy", "accepted", "digest"),
    [
        pytest.param(FIRST_FIT, 18_047, "b4d6ba22b8b6dbb6", marks=pytest.mark.slow),
        (BEST_FIT, 18_063, "0851aaed0f08d4a3"),
        pytest.param(WORST_FIT, 17_913, "b30b8ef14c39e290", marks=pytest.mark.slow),
    ],
)
def test_the_jobs_of_a_hypercube_get_exactly_these_instances(
    strategy: PlacementStrategy, accepted: int, digest: str
) -> None:
    assert replayed("nasa_ipsc", "requests.csv", strategy, hold=False) == (accepted, digest)


@pytest.mark.parametrize(
    ("strategy", "accepted", "digest"),
    [
        (FIRST_FIT, 5_885, "efc7c0e90b2f6cfa"),
        (BEST_FIT, 5_885, "f584b2f5dad14bed"),
        (WORST_FIT, 6_162, "65ebd69c62d8506f"),
    ],
)
def test_the_pods_of_a_gpu_cluster_get_exactly_these_instances(
    strategy: PlacementStrategy, accepted: int, digest: str
) -> None:
    assert replayed("openb", "requests_default.csv", strategy, hold=True) == (accepted, digest)
