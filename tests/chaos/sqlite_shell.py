"""As much of the `sqlite3` program as the outside connections use, for machines without it: `sqlite_shell.py FILE`."""

import sqlite3
import sys
from typing import Final

TIMEOUT: Final = ".timeout "
BACKUP: Final = ".backup "
PRINT: Final = ".print "


def carry_out(db: sqlite3.Connection, line: str) -> None:
    """One line of input."""
    if line.startswith(PRINT):
        sys.stdout.write(line.removeprefix(PRINT) + "\n")
    elif line.startswith(TIMEOUT):
        db.execute(f"PRAGMA busy_timeout = {int(line.removeprefix(TIMEOUT))}")
    elif line.startswith(BACKUP):
        with sqlite3.connect(line.removeprefix(BACKUP).strip("'")) as copy:
            db.backup(copy)
        copy.close()
    else:
        for statement in filter(None, map(str.strip, line.split(";"))):
            for row in db.execute(statement):
                sys.stdout.write("|".join(map(str, row)) + "\n")


def main() -> None:
    """Until `.quit`, or the end of the input."""
    db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
    for line in map(str.strip, sys.stdin):
        if line == ".quit":
            break
        try:
            carry_out(db, line)
        except sqlite3.Error as error:
            sys.stdout.write(f"Error: {error}\n")
        sys.stdout.flush()
    db.close()


if __name__ == "__main__":
    main()
