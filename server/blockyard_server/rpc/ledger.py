"""The servicer of `blockyard.v1.Ledger`: decode, ask the service, encode."""

from dataclasses import replace
from typing import Any

import grpc

from blockyard.v1 import ledger_pb2 as pb
from blockyard.v1 import ledger_pb2_grpc
from blockyard_server.engine.service import Service
from blockyard_server.rpc.auth.principal import current_principal
from blockyard_server.rpc.decode_reads import decode_fleet_only, decode_list_events
from blockyard_server.rpc.encode_ledger import encode_event_page, encode_repair_report, encode_verify_report
from blockyard_server.rpc.visibility import Visibility

_Context = grpc.aio.ServicerContext[Any, Any]


class LedgerServicer(ledger_pb2_grpc.LedgerServicer):
    """For who wants proof. What each RPC means, its limits and its errors are in `ledger.proto`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def ListEvents(self, request: pb.ListEventsRequest, context: _Context) -> pb.ListEventsResponse:
        """One page of the journal."""
        page = decode_list_events(request)
        visibility = Visibility(current_principal(), page.fleet)
        visibility.expect_searchable(page.where)
        found = await self._service.list_events(page.fleet, page.where, after=page.after, limit=page.limit)
        events = await visibility.events(found.events, self._service.callers_of)
        return encode_event_page(page.fleet, replace(found, events=events), page.scope)

    async def Verify(self, request: pb.VerifyRequest, context: _Context) -> pb.VerifyResponse:
        """Compares all records of a fleet."""
        fleet = decode_fleet_only(request.fleet, "fleet")
        return encode_verify_report(fleet, await self._service.verify(fleet))

    async def Repair(self, request: pb.RepairRequest, context: _Context) -> pb.RepairResponse:
        """Says what would make the records agree, or does it."""
        fleet = decode_fleet_only(request.fleet, "fleet")
        actor = current_principal().actor_on(fleet)
        return encode_repair_report(fleet, await self._service.repair(fleet, apply=request.apply, actor=actor))
