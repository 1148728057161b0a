"""The server of the last release, out of its own wheel (tests/golden), as a process beside those of this tree."""

import sys
import zipfile
from pathlib import Path
from typing import Any, Final

from tests.harness.process import ServerProcess

GOLDEN: Final = Path(__file__).parents[1] / "golden"
WHEEL: Final = GOLDEN / "blockyard-0.1.0-py3-none-any.whl"
VERSION: Final = "0.1.0"


def unpacked(folder: Path) -> Path:
    """The packages of the release, in a folder that Python can import from."""
    place = folder / "last-release"
    if not place.exists():
        with zipfile.ZipFile(WHEEL) as wheel:
            wheel.extractall(place)
    return place


def program_of(packages: Path) -> list[str]:
    """What stands for `blockyard`: the release's own command line. It refuses to be another release's code."""
    checked = (
        "import blockyard, blockyard_server, sys; from pathlib import Path; here = Path(sys.argv.pop(1)); "
        "assert all(here in Path(m.__file__).parents for m in (blockyard, blockyard_server)), 'another release'; "
        "from blockyard.cli import main; main()"
    )
    return ["env", f"PYTHONPATH={packages}", sys.executable, "-c", checked, str(packages)]


def last_release(folder: Path, packages: Path, **settings: Any) -> ServerProcess:
    """A server of the last release, as `ServerProcess`."""
    server = ServerProcess(folder, **settings)
    server.program = program_of(packages)
    return server
