"""Authorities for each test."""

from pathlib import Path

import pytest

from tests.tls.authorities import Authorities


@pytest.fixture
def authorities(tmp_path: Path) -> Authorities:
    folder = tmp_path / "tls"
    folder.mkdir()
    return Authorities(folder)
