"""Resource names (AIP-122): users say `gpu` or `fleets/gpu`, the wire says `fleets/gpu`.

Whether a name is well-formed is the server's to say. What is refused here is what would become the name of something
else on its way there: a name of another kind or parent, an id with a slash, an empty one.
"""


def fleet_name(fleet: str) -> str:
    """`fleets/{fleet}` for a fleet's id or full name.

    Raises:
        TypeError: It is no string.
        ValueError: It is neither.
    """
    return _full_name("fleets/", fleet, "fleet", "a fleet")


def instance_name(fleet: str, instance: str) -> str:
    """`fleets/{fleet}/instances/{instance}` for an instance's id or full name.

    Raises:
        TypeError: It is no string.
        ValueError: It is neither, or the full name is of another fleet.
    """
    parent = fleet_name(fleet)
    return _full_name(f"{parent}/instances/", instance, "instance", f"an instance of {parent!r}")


def fleet_of(name: str) -> str:
    """The fleet's id in the full name of anything in it."""
    return name.removeprefix("fleets/").partition("/")[0]


def short(name: str) -> str:
    """The last id of a full name."""
    return name.rpartition("/")[2]


def _full_name(prefix: str, name: str, kind: str, what: str) -> str:
    own = _text(name, kind).removeprefix(prefix)
    if not own or "/" in own:
        forms = f"its id, which has no slash, or its full name, {prefix}{{{kind}}}"
        raise ValueError(f"{name!r} is not {what}: give {forms}")
    return prefix + own


def _text(name: str, kind: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the {kind} is given as {type(name).__name__}, and not as str")
    return name
