"""Resource names (AIP-122): users say `gpu` or `fleets/gpu`, the wire says `fleets/gpu`."""


def fleet_name(fleet: str) -> str:
    """`fleets/{fleet}` for a fleet's id or full name."""
    return fleet if fleet.startswith("fleets/") else f"fleets/{fleet}"


def instance_name(fleet: str, instance: str) -> str:
    """`fleets/{fleet}/instances/{instance}` for an instance's id or full name.

    Raises:
        ValueError: The full name is of another fleet.
    """
    parent = f"{fleet_name(fleet)}/instances/"
    if not instance.startswith("fleets/"):
        return parent + instance
    if not instance.startswith(parent):
        raise ValueError(f"{instance!r} is not an instance of {fleet_name(fleet)!r}")
    return instance


def fleet_of(name: str) -> str:
    """The fleet's id in the full name of anything in it."""
    return name.removeprefix("fleets/").partition("/")[0]


def short(name: str) -> str:
    """The last id of a full name."""
    return name.rpartition("/")[2]
