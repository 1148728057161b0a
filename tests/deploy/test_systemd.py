"""The unit is what systemd takes, and keeps the server in."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

UNIT: Final = Path(__file__).parents[2] / "deploy" / "systemd" / "blockyard.service"
THRESHOLD: Final = 20
"""In tenths: the exposure that systemd calls OK ends at 4.9, and 10 is the worst."""

systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="not tested: systemd-analyze (Debian: systemd) is not here"
)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)


@systemd
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "blockyard"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name
    text, replaced = re.subn(r"ExecStart=\S+", f"ExecStart={program}", UNIT.read_text(encoding="utf-8"))
    unit.write_text(text, encoding="utf-8")
    done = analyze("verify", "--man=no", str(unit))

    assert replaced == 1
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@systemd
def test_the_unit_exposes_little() -> None:
    done = analyze("security", "--offline=yes", f"--threshold={THRESHOLD}", str(UNIT))

    assert "Overall exposure level for blockyard.service" in done.stdout
    assert done.returncode == 0, done.stdout


def test_systemd_waits_longer_than_the_server_drains() -> None:
    text = UNIT.read_text(encoding="utf-8")
    stop = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)

    assert stop
    assert int(stop[1]) > 15, "the grace is 10 s, and a server that hangs ends 5 s later"


def test_the_secrets_come_as_credentials() -> None:
    text = UNIT.read_text(encoding="utf-8")
    loaded = set(re.findall(r"^LoadCredential=([^:]+):", text, re.MULTILINE))

    assert set(re.findall(r"=%d/(\S+)$", text, re.MULTILINE)) == loaded == {"auth.toml", "server.pem", "server-key.pem"}
    assert {"DynamicUser=yes", "StateDirectoryMode=0700", "UMask=0077"} <= set(text.splitlines())
