"""A drill: restores the newest backup into a scratch folder, and checks that it is one to rely on.

    python scripts/restore_drill.py BACKUPS

BACKUPS is a folder of what `blockyard backup` made. The drill touches neither the backups nor the server's data. It
restores the newest backup with `blockyard restore`, compares each fleet's revision with the backup's manifest, starts a
server on the restored file, on a free port of 127.0.0.1, and verifies every fleet.

Exit code 0: the backup can be restored. 1: it cannot, or something differs. 2: there is no backup.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

BLOCKYARD: Final = (sys.executable, "-m", "blockyard")
START_S: Final = 120
SUFFIX: Final = ".manifest"


class DrillFailed(Exception):
    """The backup is not to be relied on. The message is a sentence."""


def newest(folder: Path) -> Path | None:
    """The newest backup, as its manifest says when it was made; None: there is none."""
    manifests = [path for path in folder.glob(f"*{SUFFIX}") if path.with_suffix("").is_file()]
    latest = max(manifests, key=lambda path: path.stat().st_mtime_ns, default=None)
    return None if latest is None else latest.with_suffix("")


def restore(backup: Path, data: Path) -> dict[str, Any]:
    """Restores, and compares with the manifest. Raises DrillFailed."""
    command = [*BLOCKYARD, "restore", str(backup), "--data", str(data), "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DrillFailed(f"the backup cannot be restored: {done.stderr.strip()}")
    report: dict[str, Any] = json.loads(done.stdout)
    expected = json.loads(Path(f"{backup}{SUFFIX}").read_text(encoding="utf-8"))["fleets"]
    found = {fleet: step["backup_revision"] for fleet, step in report["fleets"].items()}
    if found != expected:
        raise DrillFailed(f"the manifest has the revisions {expected}, and the backup {found}")
    stuck = [fleet for fleet, step in report["fleets"].items() if step["revision"] <= step["backup_revision"]]
    if stuck:
        raise DrillFailed(f"these fleets were not taken above their lost future: {', '.join(stuck)}")
    return report


def verify(data: Path) -> int:
    """Starts a server, and verifies every fleet; how many there are. Raises DrillFailed."""
    serve = [*BLOCKYARD, "serve", "--data", str(data), "--listen", "127.0.0.1:0", "--log-level", "ERROR"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            serving = re.match(r"Serving on (\S+), ", server.stdout.readline())
            if serving is None:
                server.wait(START_S)
                raise DrillFailed("the server does not start on the restored file")
            address = ["--address", serving[1]]
            listed = json.loads(_run("fleet", "list", "--output", "json", *address))["fleets"]
            fleets = [str(fleet["name"]).removeprefix("fleets/") for fleet in listed]
            for fleet in fleets:
                _run("verify", fleet, *address)
            return len(fleets)
        finally:
            server.terminate()


def _run(*command: str) -> str:
    done = subprocess.run([*BLOCKYARD, *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DrillFailed(f"`blockyard {' '.join(command)}`: {(done.stdout + done.stderr).strip()}")
    return done.stdout


def main() -> int:
    """Runs the drill; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backups", type=Path, metavar="BACKUPS")
    backups: Path = parser.parse_args().backups
    backup = newest(backups) if backups.is_dir() else None
    if backup is None:
        print(f"There is no backup with a manifest in {backups}.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="blockyard-drill-") as scratch:
        data = Path(scratch) / "blockyard.db"
        try:
            report = restore(backup, data)
            fleets = verify(data)
        except DrillFailed as failed:
            print(f"The drill has failed with {backup}: {failed}", file=sys.stderr)
            return 1
    print(f"{backup}: restored, {len(report['fleets'])} fleets as its manifest says, {fleets} verified and clean.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
