"""A page whose rows weigh too much ends early, and the next one goes on where it ended."""

from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.answers import AllocationPage, AllocationView
from blockyard_server.domain.limits import MAX_PAGE_BYTES
from blockyard_server.rpc.encode_allocator import encode_allocation_page
from blockyard_server.rpc.page_tokens import encode_page_token

SCOPE = ("ListAllocations", "gpu")


def heavy(allocation: int) -> AllocationView:
    placements = ((f"node-{allocation}", tuple(range(4096))),)
    annotations = {f"key-{i}": "x" * 1000 for i in range(8)}
    return AllocationView(
        Allocation(
            allocation=allocation,
            holder="job",
            caller="default",
            token="token",
            granted=placements,
            placements=placements,
            ttl_us=None,
            grant_time_us=0,
            expire_time_us=None,
            annotations=annotations,
        )
    )


def test_a_heavy_page_ends_early_after_a_row_that_its_token_names() -> None:
    views = tuple(heavy(allocation) for allocation in range(1, 1001))

    page = encode_allocation_page("gpu", AllocationPage(views, 5, next_after=None), SCOPE)

    last = page.allocations[-1].fencing_token
    assert 1 < last < 1000
    assert MAX_PAGE_BYTES <= page.ByteSize() < MAX_PAGE_BYTES * 1.1
    assert page.next_page_token == encode_page_token(SCOPE, last)


def test_a_light_page_is_whole_and_goes_on_where_the_reader_stopped() -> None:
    views = tuple(heavy(allocation) for allocation in range(1, 4))

    page = encode_allocation_page("gpu", AllocationPage(views, 5, next_after=3), SCOPE)
    last = encode_allocation_page("gpu", AllocationPage(views, 5, next_after=None), SCOPE)

    assert len(page.allocations) == len(last.allocations) == 3
    assert page.next_page_token == encode_page_token(SCOPE, 3)
    assert last.next_page_token == ""


def test_a_time_at_the_epoch_is_a_time() -> None:
    page = encode_allocation_page("gpu", AllocationPage((heavy(1),), 5, next_after=None), SCOPE)

    assert page.allocations[0].HasField("grant_time")
    assert not page.allocations[0].HasField("expire_time")
