"""The settings that the artefacts of deploy/ name."""

import re
from dataclasses import fields
from typing import Any, Final

VARIABLE: Final = re.compile(r"\bBLOCKYARD_[A-Z0-9_]+\b")
NO_SETTING: Final = {"BLOCKYARD_IMAGE"}
"""Of compose itself: which image it starts."""


def settings_of(settings: Any) -> set[str]:
    """The variables that a server reads."""
    return {f"BLOCKYARD_{setting.name.upper()}" for setting in fields(settings)}


def unknown(text: str, known: set[str]) -> set[str]:
    """The variables in a text that no server reads."""
    return {name for name in VARIABLE.findall(text) if not name.endswith("_")} - known - NO_SETTING
