"""The servicer of `blockyard.v1.FleetAdmin`: decode, ask the service, encode."""

from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from blockyard.v1 import fleet_admin_pb2 as pb
from blockyard.v1 import fleet_admin_pb2_grpc, resources_pb2
from blockyard_server.domain.requests import InstanceState, Request
from blockyard_server.engine.service import Service
from blockyard_server.rpc.auth.principal import current_principal
from blockyard_server.rpc.caller import asked_by_caller, asker_of
from blockyard_server.rpc.decode_fleet_admin import (
    decode_create_fleet,
    decode_create_instance,
    decode_delete_fleet,
    decode_delete_instance,
    decode_set_state,
    decode_update_fleet,
    decode_update_instance,
)
from blockyard_server.rpc.decode_reads import (
    decode_fleet_only,
    decode_instance_only,
    decode_list_fleets,
    decode_list_instances,
)
from blockyard_server.rpc.encode_fleet_admin import (
    encode_fleet,
    encode_fleet_page,
    encode_instance,
    encode_instance_page,
)
from blockyard_server.rpc.visibility import visible_fleets

_Context = grpc.aio.ServicerContext[Any, Any]


class FleetAdminServicer(fleet_admin_pb2_grpc.FleetAdminServicer):
    """For operators. What each RPC means, its limits and its errors are in `fleet_admin.proto`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def _submit(self, request: Request, context: _Context) -> Any:
        return await self._service.submit(asked_by_caller(request), asker_of(context))

    async def CreateFleet(self, request: pb.CreateFleetRequest, context: _Context) -> resources_pb2.Fleet:
        """Makes a fleet."""
        return encode_fleet(await self._submit(decode_create_fleet(request), context))

    async def GetFleet(self, request: pb.GetFleetRequest, context: _Context) -> resources_pb2.Fleet:
        """One fleet."""
        return encode_fleet(await self._service.get_fleet(decode_fleet_only(request.name, "name")))

    async def ListFleets(self, request: pb.ListFleetsRequest, context: _Context) -> pb.ListFleetsResponse:
        """One page of fleets."""
        page = decode_list_fleets(request)
        found = await visible_fleets(current_principal(), self._service.list_fleets, page.after, page.limit)
        return encode_fleet_page(found, page.scope)

    async def UpdateFleet(self, request: pb.UpdateFleetRequest, context: _Context) -> resources_pb2.Fleet:
        """Changes a fleet's own fields."""
        return encode_fleet(await self._submit(decode_update_fleet(request), context))

    async def DeleteFleet(self, request: pb.DeleteFleetRequest, context: _Context) -> Empty:
        """Deletes a fleet."""
        await self._submit(decode_delete_fleet(request), context)
        return Empty()

    async def CreateInstance(self, request: pb.CreateInstanceRequest, context: _Context) -> resources_pb2.Instance:
        """Registers an instance."""
        return encode_instance(await self._submit(decode_create_instance(request), context))

    async def GetInstance(self, request: pb.GetInstanceRequest, context: _Context) -> resources_pb2.Instance:
        """One instance."""
        fleet, instance = decode_instance_only(request.name)
        return encode_instance(await self._service.get_instance(fleet, instance))

    async def ListInstances(self, request: pb.ListInstancesRequest, context: _Context) -> pb.ListInstancesResponse:
        """One page of instances."""
        page = decode_list_instances(request)
        found = await self._service.list_instances(page.fleet, after=page.after, limit=page.limit)
        return encode_instance_page(found, page.scope)

    async def UpdateInstance(self, request: pb.UpdateInstanceRequest, context: _Context) -> resources_pb2.Instance:
        """Changes an instance's own fields."""
        return encode_instance(await self._submit(decode_update_instance(request), context))

    async def DeleteInstance(self, request: pb.DeleteInstanceRequest, context: _Context) -> Empty:
        """Removes an instance."""
        await self._submit(decode_delete_instance(request), context)
        return Empty()

    async def CordonInstance(self, request: pb.CordonInstanceRequest, context: _Context) -> resources_pb2.Instance:
        """Stops new grants on an instance."""
        return encode_instance(await self._submit(decode_set_state(request, InstanceState.CORDONED), context))

    async def UncordonInstance(self, request: pb.UncordonInstanceRequest, context: _Context) -> resources_pb2.Instance:
        """Allows new grants on an instance again."""
        return encode_instance(await self._submit(decode_set_state(request, InstanceState.ACTIVE), context))
