"""Which release this is."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final


def _installed_version() -> str:
    try:
        return version("blockyard")
    except PackageNotFoundError:
        # The files alone, as in a frozen program: better without a number than not to be imported.
        return "0+unknown"


__version__: Final = _installed_version()
"""The version of the installed package. `0+unknown`: only its files are there."""
