"""The command line: `blockyard COMMAND …`.

One noun or command a file; `app` puts them together. What can be decided without a service is in modules that say
*Pure* (`block_map`, `option_values`, `selector_text`, `replay_log`, `replay_tally`, `safe_text`, `failures`), the
rest talks to the service through the SDK alone. Results go to stdout, everything else to stderr.
"""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code (`failures.ExitCode`); without arguments, those of the process."""
    try:
        from blockyard.cli.entry import run_command  # noqa: PLC0415  # a Ctrl-C while it loads is no traceback
    except KeyboardInterrupt:
        return 130
    return run_command(arguments)
