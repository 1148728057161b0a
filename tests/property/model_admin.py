"""The model's FleetAdmin, and how the model finds a fleet."""

from tests.property.model_records import Fleet, Instance, Refusal
from tests.property.plain import Plain, given

_FLEET_FIELDS = ("labels", "default_placement_strategy", "default_ttl", "max_ttl")
_INSTANCE_FIELDS = ("total_blocks", "labels", "resources", "state")


class AdminModel:
    """Fleets and instances. `now` is the server's clock; all times are microseconds."""

    def __init__(self, now: int, grace: int, retention: int, journal_retention: int) -> None:
        self.now = now
        self.caller = "default"
        """Who sends the next request."""
        self.grace = grace
        self.retention = retention
        self.journal_retention = journal_retention
        self.fleets: dict[str, Fleet] = {}
        """Every fleet that ever was, by id."""

    def known(self, name: str) -> Fleet:
        """A fleet that is or was."""
        fleet = self.fleets.get(name.split("/")[1])
        if fleet is None:
            raise Refusal("FLEET_NOT_FOUND", fleet=name)
        return fleet

    def existing(self, name: str) -> Fleet:
        """A fleet that is."""
        fleet = self.known(name)
        if not fleet.exists:
            raise Refusal("FLEET_NOT_FOUND", fleet=name)
        return fleet

    def swept(self, name: str) -> Fleet:
        """A fleet that is, in which nothing that has run out is held any more."""
        fleet = self.existing(name)
        fleet.sweep(self.now)
        return fleet

    def create_fleet(self, request: Plain) -> Plain:
        """FleetAdmin.CreateFleet."""
        fields = {name: request.get("fleet", {}).get(name) for name in _FLEET_FIELDS}
        fields["labels"] = fields["labels"] or {}
        fields["default_placement_strategy"] = fields["default_placement_strategy"] or "BEST_FIT"
        _check_ttls(fields)
        fleet = self.fleets.setdefault(request["fleet_id"], Fleet(request["fleet_id"]))
        if fleet.exists:
            fleet.sweep(self.now)
            differing = [name for name in _FLEET_FIELDS if getattr(fleet, name) != fields[name]]
            if differing:
                raise Refusal("FLEET_EXISTS", fleet=fleet.name, fields=", ".join(differing))
            return fleet.plain()
        fleet.exists = True
        fleet.create_time = self.now
        self._set_fleet(fleet, "FLEET_CREATED", fields)
        return fleet.plain()

    def get_fleet(self, request: Plain) -> Plain:
        """FleetAdmin.GetFleet. It says nothing of leases, and sweeps none."""
        return self.existing(request["name"]).plain()

    def list_fleets(self, _request: Plain) -> Plain:
        """FleetAdmin.ListFleets."""
        return given(fleets=[self.fleets[name].plain() for name in sorted(self.fleets) if self.fleets[name].exists])

    def update_fleet(self, request: Plain) -> Plain:
        """FleetAdmin.UpdateFleet. Also says so if the fields that it sets contradict each other."""
        message = request["fleet"]
        fields = _masked(message, request, _FLEET_FIELDS)
        for name, default in (("labels", {}), ("default_placement_strategy", "BEST_FIT")):
            if name in fields:
                fields[name] = fields[name] or default
        _check_ttls(fields)
        fleet = self.swept(message["name"])
        _check_etag(fleet.name, fleet.changed, message)
        after = {name: fields.get(name, getattr(fleet, name)) for name in _FLEET_FIELDS}
        if all(getattr(fleet, name) == after[name] for name in _FLEET_FIELDS):
            return fleet.plain()
        _check_ttls(after)
        self._set_fleet(fleet, "FLEET_UPDATED", after)
        return fleet.plain()

    def _set_fleet(self, fleet: Fleet, kind: str, fields: Plain) -> None:
        for name, value in fields.items():
            setattr(fleet, name, value)
        fleet.update_time = self.now
        fleet.changed = fleet.record(self.now, kind, fleet=fleet.own_fields())

    def delete_fleet(self, request: Plain) -> Plain:
        """FleetAdmin.DeleteFleet."""
        fleet = self.swept(request["name"])
        _check_etag(fleet.name, fleet.changed, request)
        held = sum(len(instance.holders) for instance in fleet.instances.values())
        if held or (fleet.instances and not request.get("force")):
            raise Refusal("FLEET_IN_USE", fleet=fleet.name, held_blocks=held, instances=len(fleet.instances))
        fleet.exists = False
        fleet.instances.clear()
        fleet.record(self.now, "FLEET_DELETED")
        return {}

    def create_instance(self, request: Plain) -> Plain:
        """FleetAdmin.CreateInstance."""
        fleet = self.swept(request["parent"])
        message, name = request["instance"], request["instance_id"]
        shape = {
            "total_blocks": message["total_blocks"],
            "labels": message.get("labels", {}),
            "resources": message.get("resources", {}),
        }
        there = fleet.instances.get(name)
        if there is not None:
            differing = [key for key in shape if getattr(there, key) != shape[key]]
            if differing:
                raise Refusal("INSTANCE_EXISTS", instance=there.name, fields=", ".join(differing))
            return there.plain()
        state = message.get("state", "ACTIVE")
        instance = Instance(
            fleet.fleet,
            name,
            fleet.next_order,
            **shape,
            state=state,
            changed=0,
            create_time=self.now,
            update_time=self.now,
        )
        fleet.next_order += 1
        fleet.instances[name] = instance
        after = instance.own_fields() | {"order": instance.order}
        instance.changed = fleet.record(self.now, "INSTANCE_CREATED", instance=instance.name, instance_after=after)
        return instance.plain()

    def get_instance(self, request: Plain) -> Plain:
        """FleetAdmin.GetInstance."""
        return self._instance(request["name"])[1].plain()

    def list_instances(self, request: Plain) -> Plain:
        """FleetAdmin.ListInstances."""
        return given(instances=[instance.plain() for instance in self.swept(request["parent"]).instances.values()])

    def update_instance(self, request: Plain) -> Plain:
        """FleetAdmin.UpdateInstance. Also says so if the mask names blocks or a state that are not set."""
        message = request["instance"]
        fields = _masked(message, request, _INSTANCE_FIELDS)
        unset = [f"instance.{name}" for name in ("total_blocks", "state") if name in fields and not fields[name]]
        if unset:
            raise Refusal("INVALID_REQUEST", *unset)
        for name in ("labels", "resources"):
            if name in fields:
                fields[name] = fields[name] or {}
        return self._change_instance(message["name"], fields, message)

    def cordon_instance(self, request: Plain) -> Plain:
        """FleetAdmin.CordonInstance."""
        return self._change_instance(request["name"], {"state": "CORDONED"}, request)

    def uncordon_instance(self, request: Plain) -> Plain:
        """FleetAdmin.UncordonInstance."""
        return self._change_instance(request["name"], {"state": "ACTIVE"}, request)

    def _change_instance(self, name: str, fields: Plain, guard: Plain) -> Plain:
        fleet, instance = self._instance(name)
        _check_etag(instance.name, instance.changed, guard)
        if all(getattr(instance, key) == value for key, value in fields.items()):
            return instance.plain()
        going = [block for block in instance.holders if block >= fields.get("total_blocks", instance.total_blocks)]
        if going:
            raise Refusal("INSTANCE_IN_USE", instance=instance.name, held_blocks=len(going))
        for key, value in fields.items():
            setattr(instance, key, value)
        instance.update_time = self.now
        instance.changed = fleet.record(
            self.now, "INSTANCE_UPDATED", instance=instance.name, instance_after=instance.own_fields()
        )
        return instance.plain()

    def delete_instance(self, request: Plain) -> Plain:
        """FleetAdmin.DeleteInstance."""
        fleet, instance = self._instance(request["name"])
        _check_etag(instance.name, instance.changed, request)
        if instance.holders:
            raise Refusal("INSTANCE_IN_USE", instance=instance.name, held_blocks=len(instance.holders))
        del fleet.instances[instance.instance]
        fleet.record(self.now, "INSTANCE_DELETED", instance=instance.name)
        return {}

    def _instance(self, name: str) -> tuple[Fleet, Instance]:
        _, fleet_id, _, instance_id = name.split("/")
        fleet = self.swept(f"fleets/{fleet_id}")
        return fleet, fleet.instance(instance_id)


def _masked(message: Plain, request: Plain, names: tuple[str, ...]) -> Plain:
    """What an update sets; None where the mask names what the message does not have."""
    mask = request.get("update_mask", [])
    if not mask:
        return {name: message[name] for name in names if name in message}
    return {name: message.get(name) for name in names if name in mask or "*" in mask}


def _check_etag(resource: str, changed: int, guard: Plain) -> None:
    if guard.get("etag", f"r{changed}") != f"r{changed}":
        raise Refusal("ETAG_MISMATCH", resource=resource, etag=f"r{changed}")


def _check_ttls(fields: Plain) -> None:
    default, longest = fields.get("default_ttl"), fields.get("max_ttl")
    if default is not None and longest is not None and default > longest:
        raise Refusal("INVALID_REQUEST", "fleet.default_ttl")
