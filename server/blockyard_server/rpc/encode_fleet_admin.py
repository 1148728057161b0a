"""FleetAdmin's answers as messages."""

from blockyard.v1 import fleet_admin_pb2 as pb
from blockyard.v1 import resources_pb2
from blockyard_server.domain.answers import FleetListPage, FleetRecord, InstancePage, InstanceRecord, etag_of
from blockyard_server.domain.requests import FleetFields, InstanceFields
from blockyard_server.rpc.enums import ENCODED_STRATEGIES
from blockyard_server.rpc.instance_fields import fill_own_fields
from blockyard_server.rpc.names import encode_fleet_name, encode_instance_name
from blockyard_server.rpc.page_tokens import encode_page_token
from blockyard_server.rpc.pages import fill_page
from blockyard_server.rpc.times import fill_duration, fill_timestamp


def fill_fleet_fields(message: resources_pb2.Fleet, fleet: str, fields: FleetFields) -> None:
    """Sets a fleet's name and own fields."""
    message.name = encode_fleet_name(fleet)
    message.labels.update(fields.labels)
    message.default_placement_strategy = ENCODED_STRATEGIES[fields.default_placement_strategy]
    if fields.default_ttl_us is not None:
        fill_duration(message.default_ttl, fields.default_ttl_us)
    if fields.max_ttl_us is not None:
        fill_duration(message.max_ttl, fields.max_ttl_us)


def fill_instance_fields(message: resources_pb2.Instance, fleet: str, instance: str, fields: InstanceFields) -> None:
    """Sets an instance's name and own fields."""
    message.name = encode_instance_name(fleet, instance)
    fill_own_fields(message, fields)


def fill_fleet(message: resources_pb2.Fleet, record: FleetRecord) -> None:
    """Sets a fleet."""
    fill_fleet_fields(message, record.fleet, record.fields)
    message.etag = etag_of(record.config_revision)
    message.revision = record.revision
    message.halted = record.halted
    fill_timestamp(message.create_time, record.create_time_us)
    fill_timestamp(message.update_time, record.update_time_us)


def fill_instance(message: resources_pb2.Instance, record: InstanceRecord) -> None:
    """Sets an instance."""
    fill_instance_fields(message, record.fleet, record.instance, record.fields)
    message.etag = etag_of(record.config_revision)
    message.busy_blocks = record.busy_blocks
    message.idle_blocks = record.fields.total_blocks - record.busy_blocks
    message.order = record.order
    fill_timestamp(message.create_time, record.create_time_us)
    fill_timestamp(message.update_time, record.update_time_us)


def encode_fleet(record: FleetRecord) -> resources_pb2.Fleet:
    """One fleet."""
    message = resources_pb2.Fleet()
    fill_fleet(message, record)
    return message


def encode_instance(record: InstanceRecord) -> resources_pb2.Instance:
    """One instance."""
    message = resources_pb2.Instance()
    fill_instance(message, record)
    return message


def encode_fleet_page(page: FleetListPage, scope: tuple[object, ...]) -> pb.ListFleetsResponse:
    """A page of fleets."""
    message = pb.ListFleetsResponse()
    last = fill_page(message.fleets, page.fleets, fill_fleet)
    message.next_page_token = encode_page_token(scope, page.next_after if last is None else last.fleet)
    return message


def encode_instance_page(page: InstancePage, scope: tuple[object, ...]) -> pb.ListInstancesResponse:
    """A page of instances."""
    message = pb.ListInstancesResponse()
    last = fill_page(message.instances, page.instances, fill_instance)
    message.next_page_token = encode_page_token(scope, page.next_after if last is None else last.order)
    return message
