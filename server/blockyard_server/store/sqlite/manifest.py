"""What a backup says of itself, in a file beside it: its sum, and the revision of each fleet."""

import json
import os
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Final

from blockyard_server.store.sqlite.data_file import OWNER_ONLY, sync_folder

SUFFIX: Final = ".manifest"


class ManifestRefused(Exception):
    """The manifest does not fit the file, or cannot be read. The message is a sentence."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Of one backup."""

    sha256: str
    size_bytes: int
    fleets: dict[str, int]
    """The revision of each fleet, deleted ones included."""


def manifest_of(file: Path) -> Path:
    """Where the manifest of a backup is."""
    return file.with_name(file.name + SUFFIX)


def sha256_of(file: Path) -> str:
    """Raises OSError."""
    with file.open("rb") as opened:
        return file_digest(opened, "sha256").hexdigest()


def write_manifest(file: Path, manifest: Manifest) -> None:
    """Durably, and whole or not at all. Raises OSError."""
    path = manifest_of(file)
    part = path.with_name(path.name + ".partial")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, OWNER_ONLY)
    with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
        json.dump(asdict(manifest), opened)
        opened.write("\n")
        opened.flush()
        os.fsync(descriptor)
    part.replace(path)
    sync_folder(path.parent)


def read_manifest(file: Path) -> Manifest | None:
    """None: there is none. Raises ManifestRefused."""
    path = manifest_of(file)
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        fleets = {str(fleet): int(revision) for fleet, revision in said["fleets"].items()}
        return Manifest(str(said["sha256"]), int(said["size_bytes"]), fleets)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as failure:
        raise ManifestRefused(f"The manifest {path} cannot be read: {failure}.") from failure
