"""What a peer needs from PyPI: installed once below build/peers, apart from our own dependencies."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.peers.peer import NotHere

FOLDER: Final = Path(__file__).parents[2] / "build" / "peers"
INSTALL_S: Final = 600.0


def environment(name: str, packages: Sequence[str]) -> Path:
    """The `bin` folder of a virtual environment with these packages. Raises NotHere."""
    folder = FOLDER / name
    python = folder / "bin" / "python"
    _once(folder, packages, [[sys.executable, "-m", "venv", folder], [python, *_PIP, *packages]])
    return folder / "bin"


def folder_of_modules(name: str, packages: Sequence[str]) -> Path:
    """A folder with these packages alone, to be imported beside our own dependencies. Raises NotHere."""
    folder = FOLDER / name
    _once(folder, packages, [[sys.executable, *_PIP, "--no-deps", "--upgrade", "--target", folder, *packages]])
    return folder


_PIP: Final = ("-m", "pip", "--disable-pip-version-check", "--quiet", "install")


def _once(folder: Path, packages: Sequence[str], commands: Sequence[Sequence[str | Path]]) -> None:
    done, wanted = folder / ".installed", "\n".join(packages)
    if done.exists() and done.read_text() == wanted:
        return
    for command in commands:
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S)
        except subprocess.SubprocessError as error:
            output = str(getattr(error, "stderr", "")).strip().splitlines()
            raise NotHere(f"{', '.join(packages)} could not be installed: {output[-1] if output else error}") from error
    done.write_text(wanted)
