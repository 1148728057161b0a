"""The drawing of a fleet says who has which block, also without colour."""

import pytest
from rich.cells import cell_len

from blockyard.cli.block_map import draw_instances, draw_legend, mark_holders
from blockyard.cli.safe_text import safe
from blockyard.enums import InstanceState
from blockyard.types import Hold, InstanceBlocks


def make_instance(
    name: str, total: int, holds: dict[str, tuple[int, ...]], *, state: InstanceState = InstanceState.ACTIVE
) -> InstanceBlocks:
    busy = sum(len(blocks) for blocks in holds.values())
    return InstanceBlocks(
        instance=name,
        state=state,
        total_blocks=total,
        busy_blocks=busy,
        idle_blocks=total - busy,
        holds=tuple(
            Hold(f"fleets/f/allocations/{number}", holder, blocks)
            for number, (holder, blocks) in enumerate(holds.items(), 1)
        ),
    )


def draw(*instances: InstanceBlocks, width: int = 80, ascii_only: bool = False) -> list[str]:
    return [line.plain for line in draw_instances(instances, width=width, ascii_only=ascii_only)]


def legend(*instances: InstanceBlocks, width: int = 80) -> list[str]:
    return [line.plain for line in draw_legend(instances, width=width)]


def test_each_block_is_one_cell_and_each_holder_one_letter() -> None:
    node = make_instance("node-1", 8, {"train": (0, 1), "eval": (4,)})

    assert draw(node) == ["node-1  AA··B···  3 of 8 busy"]
    assert legend(node) == ["A train (2)  B eval (1)", "· idle"]


def test_letters_follow_the_blocks_and_not_the_allocations() -> None:
    assert draw(make_instance("n", 4, {"late": (3,), "early": (0,)})) == ["n  A··B  2 of 4 busy"]


def test_a_holder_has_the_same_letter_on_every_instance() -> None:
    lines = draw(make_instance("a", 2, {"x": (0,), "y": (1,)}), make_instance("b", 2, {"y": (0,), "x": (1,)}))

    assert lines == ["a  AB  2 of 2 busy", "b  BA  2 of 2 busy"]


def test_cells_come_in_groups_of_eight() -> None:
    assert draw(make_instance("n", 20, {})) == ["n  ········ ········ ····  0 of 20 busy"]


def test_the_counts_of_instances_of_different_size_are_aligned() -> None:
    lines = draw(make_instance("small", 2, {}), make_instance("b", 12, {}))

    assert lines[0].index("0 of 2") == lines[1].index("0 of 12")


def test_a_long_instance_wraps_inside_the_width_and_says_where_each_line_begins() -> None:
    lines = draw(make_instance("node-1", 40, {"x": tuple(range(16, 24))}), width=60)

    assert lines == [
        "node-1  ········ ········  8 of 40 busy",
        "    16  AAAAAAAA ········",
        "    32  ········",
    ]
    assert max(len(line) for line in lines) <= 60


def test_the_largest_instance_has_a_cell_for_each_of_its_4096_blocks() -> None:
    cells = "".join(line.split("  ", 1)[1].split("  0 of")[0] for line in draw(make_instance("n", 4096, {}), width=120))

    assert cells.replace(" ", "") == "·" * 4096


def test_a_cordoned_and_an_offline_instance_are_marked_and_their_idle_blocks_differ() -> None:
    cordoned = make_instance("c", 4, {"x": (0,)}, state=InstanceState.CORDONED)
    offline = make_instance("o", 4, {}, state=InstanceState.OFFLINE)

    assert draw(cordoned, offline) == ["c  A---  1 of 4 busy  CORDONED", "o  ----  0 of 4 busy  OFFLINE"]
    assert legend(cordoned)[-1] == "· idle  - idle, but takes no new grants"


def test_holders_beyond_the_letters_share_a_sign_and_the_smallest_are_those() -> None:
    crowd: dict[str, tuple[int, ...]] = {f"h{number}": (number,) for number in range(70)}
    crowd["large"] = (100, 101)
    node = make_instance("n", 128, crowd)

    marks = mark_holders([node])

    lettered = [holder for holder, mark in marks.items() if mark.symbol != "#"]
    assert len(lettered) == 62
    assert "large" in lettered
    assert len({marks[holder].symbol for holder in lettered}) == 62
    assert any("# 9 more holders (9)" in line for line in legend(node, width=400))


def test_neighbours_in_the_legend_have_different_colours() -> None:
    marks = mark_holders([make_instance("n", 8, {"x": (0,), "y": (1,), "z": (2,)})])

    assert len({mark.style for mark in marks.values()}) == 3


def test_without_unicode_the_drawing_is_ascii() -> None:
    lines = draw(make_instance("a-name-that-is-much-too-long-for-a-line", 4, {"x": (1,)}), ascii_only=True)

    assert lines[0].isascii()
    assert ".A.." in lines[0]


def test_what_a_holder_calls_itself_is_never_read_as_markup() -> None:
    assert legend(make_instance("n", 1, {"[red]x[/]": (0,)}))[0] == "A [red]x[/] (1)"


def test_a_fleet_without_instances_draws_nothing() -> None:
    assert draw() == []


@pytest.mark.parametrize("name", ["東京" * 10, "e\u0301" * 40, "a\u202eb\x1b[2J\n" * 5, "\U0001f469" * 30])
def test_a_name_of_any_letters_leaves_the_columns_where_they_are(name: str) -> None:
    shown = [make_instance(f"fleets/f/instances/{text}", 8, {}) for text in (name, "node-1")]

    odd, even = draw_instances(shown, width=80)

    assert odd.cell_len == even.cell_len <= 80
    assert cell_len(odd.plain.partition("·")[0]) == cell_len(even.plain.partition("·")[0])
    assert safe(odd.plain) == odd.plain
