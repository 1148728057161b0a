"""What the demands of a call select by is bounded in all, because it is work for the writer."""

import pytest

from blockyard.v1 import allocator_pb2 as pb
from blockyard_server.domain import limits
from blockyard_server.domain.errors import LimitExceeded
from blockyard_server.rpc.decode_allocator import decode_acquire, decode_operations
from tests.rpc.wire import acquire_request


def hosts(count: int, first: int = 0) -> pb.Demand:
    """A demand that names so many hosts."""
    demand = pb.Demand(blocks=1)
    for begin in range(first, first + count, limits.MAX_EXPRESSION_VALUES):
        values = [f"h{n}" for n in range(begin, min(begin + limits.MAX_EXPRESSION_VALUES, first + count))]
        demand.selector.match_expressions.add(key="host", operator=pb.LabelExpression.NOT_IN, values=values)
    return demand


def test_what_all_demands_select_by_is_counted_before_it_is_decoded() -> None:
    most = limits.MAX_SELECTOR_VALUES_PER_REQUEST
    request = acquire_request()
    del request.demands[:]
    request.demands.add(blocks=1, instance_names=[f"fleets/gpu/instances/n{n}" for n in range(1000)])
    request.demands.add(blocks=1).selector.match_labels["zone"] = "a"
    request.demands.append(hosts(most - 1001))
    assert len(decode_acquire(request, "default").demands) == 3

    request.demands[2].selector.match_expressions[0].values.append("")  # malformed, and never looked at
    with pytest.raises(LimitExceeded) as caught:
        decode_acquire(request, "default")
    assert caught.value.metadata == {"limit": "selector_values_per_request", "maximum": str(most)}

    batch = pb.BatchRequest()
    for n in range(2):
        acquire = batch.operations.add().acquire
        acquire.CopyFrom(acquire_request())
        acquire.demands.append(hosts(most // 2, n))
    assert len(decode_operations(batch, "default")) == 2
    batch.operations.add().acquire.demands.append(hosts(1))
    with pytest.raises(LimitExceeded):
        decode_operations(batch, "default")
