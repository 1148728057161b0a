"""Sets of block numbers as integers: bit i is block i.

An instance has at most 4096 blocks, so a set of them is one Python integer, and choosing blocks is
arithmetic.
"""

Blocks = tuple[int, ...]
"""Block numbers in ascending order."""

Placements = tuple[tuple[str, Blocks], ...]
"""Instance ids with their blocks, in the order in which the instances were chosen."""


def to_mask(blocks: Blocks) -> int:
    """The set of these block numbers."""
    if blocks and blocks[-1] - blocks[0] == len(blocks) - 1:
        return ((1 << len(blocks)) - 1) << blocks[0]
    mask = 0
    for block in blocks:
        mask |= 1 << block
    return mask


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
    idle numbers. `idle` has at least `count` members.
    """
    best_start, best_length = -1, 0
    rest = idle
    while rest:
        start = (rest & -rest).bit_length() - 1
        shifted = rest >> start
        length = (~shifted & (shifted + 1)).bit_length() - 1
        if length == count:
            return ((1 << count) - 1) << start
        if length > count and (best_start < 0 or length < best_length):
            best_start, best_length = start, length
        rest = rest >> (start + length) << (start + length)
    if best_start >= 0:
        return ((1 << count) - 1) << best_start
    return _lowest(idle, count)


def _lowest(idle: int, count: int) -> int:
    chosen = 0
    for _ in range(count):
        low = idle & -idle
        chosen |= low
        idle ^= low
    return chosen


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
