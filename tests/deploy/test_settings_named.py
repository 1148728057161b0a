"""Each setting that an artefact names is one of the server."""

from pathlib import Path
from typing import Final

import pytest

from blockyard_server.settings import Settings
from tests.deploy.names import VARIABLE, settings_of, unknown

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
FILES: Final = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
KNOWN: Final = settings_of(Settings)


@pytest.mark.parametrize("file", FILES, ids=[str(path.relative_to(DEPLOY)) for path in FILES])
def test_an_artefact_names_settings_of_the_server_alone(file: Path) -> None:
    assert unknown(file.read_text(encoding="utf-8"), KNOWN) == set()


def test_each_artefact_that_starts_a_server_names_some() -> None:
    mute = [
        name
        for name in ("container/Containerfile", "systemd/blockyard.service", "compose/compose.yaml")
        if not VARIABLE.search((DEPLOY / name).read_text(encoding="utf-8"))
    ]

    assert mute == []


def test_a_misspelt_setting_is_noticed() -> None:
    assert unknown("BLOCKYARD_LISTEN=a BLOCKYARD_LISTENS=b", KNOWN) == {"BLOCKYARD_LISTENS"}
