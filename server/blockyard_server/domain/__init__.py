"""The pure core: what a fleet is, and what each request does to it.

Plain values in, plain values out. No clock, no I/O, no SQL, no protobuf, no asyncio: only the standard
library is imported. `decide_x(state, records, request, now_us)` answers a request and says which event,
if any, makes it so; `FleetState.apply` and `Records.apply` are the only ways in which an event changes memory.
"""
