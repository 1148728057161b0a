"""Sets of positions, and a number for each position, as integers: bit i of a bitmap stands for position i."""

from collections.abc import Iterable, Iterator, Sequence
from struct import pack
from typing import Final

BITS: Final = 13
"""Of the numbers: an instance has at most 4096 blocks."""
NEVER: Final = (1 << BITS) - 1
"""More than any number of blocks."""
MANY_SHARE: Final = 32
"""For more than one in so many positions it is quicker to write all digits and read them as one number."""
_ONE: Final = ord("1")
_BIT: Final = tuple(1 << bit for bit in range(8))
_DIGITS: Final = tuple(bytes(ord("1") if byte >> bit & 1 else ord("0") for byte in range(256)) for bit in range(8))
"""For each bit of a byte: the digit that it is, for every byte."""


def bitmap_of(positions: Iterable[int], size: int) -> int:
    """The set of these positions, each below `size`."""
    positions = list(positions)
    if len(positions) > size // MANY_SHARE:
        digits = bytearray(b"0") * size
        for position in positions:
            digits[position] = _ONE
        digits.reverse()
        return int(digits, 2)
    bits = bytearray(size // 8 + 1)
    for position in positions:
        bits[position >> 3] |= _BIT[position & 7]
    return int.from_bytes(bits, "little")


def positions_in(bitmap: int) -> Iterator[int]:
    """The positions of a set, ascending."""
    while bitmap:
        low = bitmap & -bitmap
        yield low.bit_length() - 1
        bitmap ^= low


class BitSlices:
    """A number from 0 to NEVER for each position: plane p is the set of the positions whose number has bit p.

    What is asked of all positions at once takes a few operations for each plane (O'Neil and Quass, "Improved query
    performance with variant indexes", SIGMOD 1997).
    """

    __slots__ = ("planes",)

    def __init__(self) -> None:
        self.planes = [0] * BITS
        """From the lowest bit to the highest."""

    def append(self, numbers: Sequence[int], base: int) -> None:
        """The positions from `base` on, whose numbers were 0, now have these."""
        if not numbers:
            return
        raw = pack(f"<{len(numbers)}H", *numbers)[::-1]  # the last position first, as the digits of a number
        halves = (raw[1::2], raw[::2])
        for bit in range(BITS):
            self.planes[bit] |= int(halves[bit // 8].translate(_DIGITS[bit % 8]), 2) << base

    def change(self, position: int, before: int, after: int) -> None:
        """The number of one position is no longer `before`."""
        differing = before ^ after
        flip = 1 << position
        while differing:
            low = differing & -differing
            self.planes[low.bit_length() - 1] ^= flip
            differing ^= low

    def at_least(self, least: "int | BitSlices", among: int) -> int:
        """The positions among these whose number is at least `least`: one number, or one for each position."""
        above, equal = 0, among
        for bit in reversed(range(BITS)):
            plane = self.planes[bit]
            if isinstance(least, int):
                if least >> bit & 1:
                    equal &= plane
                elif plane:
                    higher = equal & plane
                    above |= higher
                    equal ^= higher
            else:
                other = least.planes[bit]
                if plane or other:
                    differing = equal & (plane ^ other)
                    above |= differing & plane
                    equal ^= differing
        return above | equal

    def smallest(self, among: int) -> int:
        """Those of these positions that have the smallest number; `among` is not empty."""
        for plane in reversed(self.planes):
            without = among ^ (among & plane)
            among = without or among
        return among

    def largest(self, among: int) -> int:
        """Those of these positions that have the largest number; `among` is not empty."""
        for plane in reversed(self.planes):
            among = among & plane or among
        return among
