"""How a client comes by each error that is about who it is: what it asks of a server with an auth file."""

import signal
from pathlib import Path
from typing import Final

from blockyard.reasons import Reason
from blockyard_server.rpc.auth.tokens import NewToken, new_token
from tests.auth.world import principal, tokens
from tests.clients.real_client import RealClient, Refusal
from tests.clients.refusals import Seen, Story
from tests.clients.stage import Stage
from tests.harness.patience import until

ADMIN: Final = new_token()
"""What a stage is built with."""
TRAIN: Final = new_token()
TRAIN_LATER: Final = new_token()
INFER: Final = new_token()
SLOW: Final = new_token()
NOBODYS: Final = new_token()


def write_auth_file(path: Path, *, train: NewToken = TRAIN) -> None:
    """An admin, and three tenants that share all fleets: one has a rate of a call in a thousand seconds."""
    entries = {
        "admin": (ADMIN, "admin", ""),
        "train": (train, "scheduler", ""),
        "infer": (INFER, "scheduler", ""),
        "slow": (SLOW, "scheduler", "limits = { units_per_s = 0.001, burst = 1 }\n"),
    }
    beside = path.with_suffix(".new")
    beside.touch(mode=0o600)
    beside.write_text(
        "".join(
            principal(f'{tokens(token.toml())}grant = [{{ role = "{role}", fleets = ["*"] }}]\n{limits}', id_, id_)
            for id_, (token, role, limits) in entries.items()
        )
    )
    beside.replace(path)


def is_known(client: RealClient) -> bool:
    """Whether the server takes this client's token."""
    try:
        client.call("FleetAdmin/ListFleets", {})
    except Refusal as refusal:
        if refusal.reason != Reason.UNAUTHENTICATED:
            raise
        return False
    return True


def a_call_without_a_good_token(stage: Stage) -> Seen:
    request = {"fleet": stage.fleet}
    without = stage.client.with_token(None).refusal("Allocator/Describe", request)
    assert (without.reason, without.error_info["metadata"]) == (Reason.UNAUTHENTICATED, {"scheme": "none"})
    refusal = stage.client.with_token(NOBODYS.secret).refusal("Allocator/Describe", request)
    return Seen(refusal, {"scheme": "bearer"})


def a_watch_whose_token_is_revoked(stage: Stage) -> Seen:
    old, new = (stage.client.with_token(token.secret) for token in (TRAIN, TRAIN_LATER))
    watch = old.watch({"fleet": stage.fleet})
    begin = watch.next()["revision"]
    assert not is_known(new)
    write_auth_file(Path(stage.server.setting("auth_file")), train=TRAIN_LATER)
    stage.server.send(signal.SIGHUP)
    until(lambda: is_known(new), "the new token is known")
    marks, refusal = watch.rest()
    assert {mark["revision"] for mark in marks} <= {begin}

    again = new.watch({"fleet": stage.fleet, "from_revision": str(int(begin) + 1)})
    assert again.next()["revision"] == begin
    allocation = stage.acquire(1)["name"]
    assert [event["allocation"] for event in again.next()["events"]] == [allocation]
    again.close()
    return Seen(refusal)


def a_fleet_made_by_a_scheduler(stage: Stage) -> Seen:
    fleet_id = f"{stage.fleet_id}-2"
    train = stage.client.with_token(TRAIN.secret)
    refusal = train.refusal("FleetAdmin/CreateFleet", {"fleet_id": fleet_id})
    assert stage.refused("FleetAdmin/GetFleet", name=f"fleets/{fleet_id}").reason == Reason.FLEET_NOT_FOUND
    return Seen(refusal, {"permission": "FLEETS", "fleet": f"fleets/{fleet_id}", "principal": "train"})


def a_release_by_another_tenant(stage: Stage) -> Seen:
    train, infer = (stage.client.with_token(token.secret) for token in (TRAIN, INFER))
    name = train.call("Allocator/Acquire", stage.acquiring(1))["allocation"]["name"]
    refusal = infer.refusal("Allocator/Release", {"name": name})
    assert train.call("Allocator/Release", {"name": name})["outcome"] == "RELEASED"
    return Seen(refusal, {"allocation": name, "tenant": "infer"})


def more_calls_than_its_rate(stage: Stage) -> Seen:
    slow = stage.client.with_token(SLOW.secret)
    name = slow.call("Allocator/Acquire", stage.acquiring(1))["allocation"]["name"]
    refusal = slow.refusal("Allocator/Acquire", stage.acquiring(1))
    assert slow.call("Allocator/Release", {"name": name})["outcome"] == "RELEASED", "no rate keeps somebody from that"
    return Seen(refusal, {"limit": "units_per_s", "maximum": "0.001"}, "google.rpc.RetryInfo")


IDENTITIES: Final[dict[Reason, Story]] = {
    Reason.UNAUTHENTICATED: a_call_without_a_good_token,
    Reason.CREDENTIALS_EXPIRED: a_watch_whose_token_is_revoked,
    Reason.NOT_PERMITTED: a_fleet_made_by_a_scheduler,
    Reason.NOT_OWNER: a_release_by_another_tenant,
    Reason.RATE_LIMITED: more_calls_than_its_rate,
}
"""Reasons that only a server with an auth file has. The client of the stage is the admin's."""
