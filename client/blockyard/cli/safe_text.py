"""Makes text that comes from elsewhere fit to be shown: no escape sequence, no hidden or reversed letters. Pure.

A server, a file or an argument may hold anything. On a terminal, control characters move the cursor, set the title or
the clipboard; characters of direction (U+202E) make a name read as another one; a newline begins a line that looks like
the program's own. They are shown by their numbers instead.
"""

import unicodedata
from typing import Final

SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Unicode's categories of what is not shown as it is: control, format (direction and tags among them), half of a pair,
private, and the separators of lines and paragraphs."""
MAX_MARKS: Final = 4
"""Combining marks that may be on a letter; more would cover the lines around it."""
_MARKS: Final = frozenset({"Mn", "Me"})


def safe(text: str) -> str:
    r"""The text on one line, with `\n` or `\u{202e}` for each character that is not to reach a terminal.

    Combining marks that have no letter to be on, or are too many, are shown likewise. Everything else stays.
    """
    if text.isascii() and text.isprintable():
        return text
    shown: list[str] = []
    marks = MAX_MARKS  # at the beginning there is no letter
    for character in text:
        category = unicodedata.category(character)
        if category in _MARKS:
            marks += 1
        else:
            marks = MAX_MARKS if category in HIDDEN else 0
        if category in HIDDEN or marks > MAX_MARKS:
            shown.append(SHORT.get(character) or f"\\u{{{ord(character):x}}}")
        else:
            shown.append(character)
    return "".join(shown)
