"""Sets of block numbers as integers: bit i is block i.

An instance has at most 4096 blocks, so a set of them is one Python integer, and choosing blocks is
arithmetic.
"""

from blockyard_server.domain.bitmaps import bitmap_of

Blocks = tuple[int, ...]
"""Block numbers in ascending order."""

Placements = tuple[tuple[str, Blocks], ...]
"""Instance ids with their blocks, in the order in which the instances were chosen."""


def to_mask(blocks: Blocks) -> int:
    """The set of these block numbers, in any order."""
    return bitmap_of(blocks, max(blocks) + 1) if blocks else 0


def to_blocks(mask: int) -> Blocks:
    """The block numbers of a set, ascending."""
    return tuple(block for first, last in to_runs(mask) for block in range(first, last + 1))


def to_runs(mask: int) -> list[tuple[int, int]]:
    """The runs of neighbouring numbers in a set, ascending: the first and the last number of each."""
    runs = []
    base = 0
    while mask:
        skipped = (mask & -mask).bit_length() - 1
        mask >>= skipped
        length = (~mask & (mask + 1)).bit_length() - 1
        runs.append((base + skipped, base + skipped + length - 1))
        base += skipped + length
        mask >>= length
    return runs


def choose_blocks(idle: int, count: int) -> int:
    """Which `count` blocks of `idle` to grant (design: neighbours are what NVLink pairs and NUMA domains are made of).

    The smallest run of neighbouring idle blocks that fits, the lowest first; if no run fits, the lowest
    idle numbers. `idle` has at least `count` members. The cost does not grow with the number of runs.
    """
    first = idle & ~(idle << 1)
    """Where runs begin."""
    runs = first & _beginning(idle, count)
    if not runs:
        return _lowest(idle, count)
    fitting = runs ^ (runs & _beginning(idle, count + 1))
    if fitting:
        return ((1 << count) - 1) << ((fitting & -fitting).bit_length() - 1)
    # The smallest run that fits has the most blocks that no run falls short of.
    shortest, too_long = count, idle.bit_count() + 1
    while too_long - shortest > 1:
        length = (shortest + too_long) // 2
        if runs & _beginning(idle, length) == runs:
            shortest = length
        else:
            too_long = length
    runs ^= runs & _beginning(idle, shortest + 1)
    return ((1 << count) - 1) << ((runs & -runs).bit_length() - 1)


def _beginning(idle: int, length: int) -> int:
    """Where so many neighbouring idle blocks begin."""
    done = 1
    while done < length:
        step = min(done, length - done)
        idle &= idle >> step
        done += step
    return idle


def _lowest(idle: int, count: int) -> int:
    """The `count` lowest numbers of the set."""
    enough, too_few = idle.bit_length(), 0
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if (idle & ((1 << middle) - 1)).bit_count() >= count:
            enough = middle
        else:
            too_few = middle
    return idle & ((1 << enough) - 1)


def block_count(placements: Placements) -> int:
    """How many blocks these are in all."""
    return sum(len(blocks) for _, blocks in placements)


def without(placements: Placements, gone: Placements) -> Placements:
    """What is left of `placements` when `gone` is taken away; instances without blocks disappear."""
    gone_masks = {instance: to_mask(blocks) for instance, blocks in gone}
    left = []
    for instance, blocks in placements:
        mask = to_mask(blocks) & ~gone_masks.get(instance, 0)
        if mask:
            left.append((instance, to_blocks(mask)))
    return tuple(left)


def within(placements: Placements, wanted: Placements) -> Placements:
    """The part of `placements` that `wanted` names."""
    return without(placements, without(placements, wanted))
