"""The model of a disk, without any SQLite."""

from random import Random

import pytest

from tests.power.disk import (
    SECTOR_BYTES,
    SURVIVALS,
    Create,
    Delete,
    Disk,
    Step,
    Sync,
    SyncFolder,
    Truncate,
    Write,
    everything,
    only_synced,
    sectors,
)


def after(*steps: Step, **files: bytes) -> Disk:
    disk = Disk(files)
    for step in steps:
        disk.take(step)
    return disk


def synced(disk: Disk) -> dict[str, bytes]:
    return disk.image(only_synced(disk, Random(0)))


def written(disk: Disk) -> dict[str, bytes]:
    return disk.image(everything(disk, Random(0)))


def test_what_is_written_is_there_only_after_a_sync() -> None:
    disk = after(Write(0, 1, b"xy"), a=b"1234")

    assert synced(disk) == {"a": b"1234"}
    assert written(disk) == {"a": b"1xy4"}
    disk.take(Sync(0))
    assert synced(disk) == {"a": b"1xy4"}


def test_a_sync_is_of_one_file() -> None:
    disk = after(Write(0, 0, b"x"), Write(1, 0, b"y"), Sync(1), a=b"1", b=b"2")

    assert synced(disk) == {"a": b"1", "b": b"y"}


def test_a_new_name_is_there_only_after_a_sync_of_the_folder() -> None:
    disk = after(Create("a", 7), Write(7, 0, b"x"), Sync(7))

    assert synced(disk) == {}
    disk.take(SyncFolder())
    assert synced(disk) == {"a": b"x"}


def test_a_deleted_file_comes_back_unless_the_folder_was_synced() -> None:
    disk = after(Delete("a"), Create("a", 7), a=b"old")

    assert synced(disk) == {"a": b"old"}
    assert written(disk) == {"a": b""}
    disk.take(SyncFolder())
    assert synced(disk) == {"a": b""}


def test_a_cut_length_is_there_only_after_a_sync() -> None:
    disk = after(Truncate(0, 1), a=b"1234")

    assert synced(disk) == {"a": b"1234"}
    assert written(disk) == {"a": b"1"}


def test_a_gap_below_a_write_is_zeros() -> None:
    assert written(after(Write(0, 3, b"x"), a=b"1")) == {"a": b"1\0\0x"}


def test_a_write_is_torn_where_sectors_begin() -> None:
    data = Random(0).randbytes(1000)

    parts = sectors(Write(0, 500, data))

    assert [part.offset for part in parts] == [500, SECTOR_BYTES, 2 * SECTOR_BYTES]
    assert b"".join(part.data for part in parts) == data


@pytest.mark.parametrize("survival", ["a torn prefix", "any changes", "any sectors"])
def test_what_was_not_synced_may_be_there_or_not(survival: str) -> None:
    disk = after(Write(0, 0, b"x" * SECTOR_BYTES), a=b"o" * SECTOR_BYTES)

    images = {disk.image(SURVIVALS[survival](disk, Random(seed)))["a"] for seed in range(50)}

    assert images >= {b"x" * SECTOR_BYTES, b"o" * SECTOR_BYTES}
    assert (len(images) > 2) == (survival == "any sectors"), "a sector may be neither"


@pytest.mark.parametrize("survival", SURVIVALS)
def test_what_was_synced_survives_whatever_becomes_of_the_rest(survival: str) -> None:
    base = Random(1).randbytes(4 * SECTOR_BYTES)
    disk = after(Write(0, 0, b"kept" * 128), Sync(0), Write(0, 2 * SECTOR_BYTES, b"lost" * 128), a=base)

    images = [disk.image(SURVIVALS[survival](disk, Random(seed)))["a"] for seed in range(50)]

    assert {image[: 2 * SECTOR_BYTES] for image in images} == {b"kept" * 128 + base[SECTOR_BYTES : 2 * SECTOR_BYTES]}
    assert {image[3 * SECTOR_BYTES :] for image in images} == {base[3 * SECTOR_BYTES :]}


def test_the_same_seed_makes_the_same_image() -> None:
    disk = after(*(Write(0, 600 * number, Random(number).randbytes(600)) for number in range(20)), a=b"")

    for survive in SURVIVALS.values():
        assert disk.image(survive(disk, Random(5))) == disk.image(survive(disk, Random(5)))
