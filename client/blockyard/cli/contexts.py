"""The contexts of the user: servers by name, with what is needed to call them, in one file in TOML.

    current = "prod"

    [contexts.prod]
    address = "blockyard.example:7350"
    ca = "ca.pem"                       # beside this file; `~` is the user's home
    token_file = "~/.config/blockyard/prod.token"

A key that is not known is an error: one that is misspelt would leave out a certificate or a name to check. A file with
a token in it is read only if nobody else can read it. Tokens are never shown.
"""

import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import MappingProxyType
from typing import Any, Final

import platformdirs

from blockyard.cli.failures import CommandFailed, ExitCode

MAX_FILE_BYTES: Final = 1024 * 1024
MAX_WORDS: Final = 64
"""Of a command that prints a token."""
MAX_TEXT: Final = 4096
"""Characters of a value, and of a word of a command. A token may have more."""
CURRENT: Final = "current"
CONTEXTS: Final = "contexts"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_PATHS: Final = ("ca", "cert", "key", "token_file")
_TOKEN_KEYS: Final = ("token", "token_file", "token_command")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One server, or several of one database, and what a client needs there."""

    address: str
    """As --address."""
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    server_name: str | None = None
    tls: bool | None = None
    """Whether to use TLS; None: if one of the four before is given."""
    token: str | None = field(default=None, repr=False)
    token_file: str | None = None
    token_command: tuple[str, ...] | None = None
    """A program and its arguments; it prints the token."""
    caller: str | None = None
    """As --caller."""


@dataclass(frozen=True, slots=True)
class Config:
    """What the file says."""

    current: str | None = None
    """The context for commands that name neither a context nor an address."""
    contexts: Mapping[str, Context] = field(default_factory=lambda: MappingProxyType({}))

    def context(self, name: str) -> Context:
        """The context of this name. Raises CommandFailed."""
        if name not in self.contexts:
            known = ", ".join(sorted(self.contexts)) or "none"
            raise _refused(
                f"There is no context {name!r} in {config_path()}; there is {known}.",
                "`blockyard context add` makes one.",
            )
        return self.contexts[name]


def config_path() -> Path:
    """Where the file is, whether or not it exists."""
    return platformdirs.user_config_path("blockyard") / "config.toml"


def read_config() -> Config:
    """What the file says; nothing, if there is none. Raises CommandFailed, OSError."""
    path = config_path()
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
            mode = os.fstat(file.fileno()).st_mode
    except FileNotFoundError:
        return Config()
    if len(content) > MAX_FILE_BYTES:
        raise _refused(f"{path} is larger than {MAX_FILE_BYTES} bytes.")
    try:
        document = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _refused(f"{path} is no TOML: {error}.") from error
    config = decode_config(document, path)
    if any(context.token for context in config.contexts.values()):
        _require_private(path, mode)
    return config


def decode_config(document: Mapping[str, Any], path: Path) -> Config:
    """A file's content, checked. Relative paths are in the file's folder. Raises CommandFailed."""
    _require_known(document, {CURRENT, CONTEXTS}, str(path))
    contexts = document.get(CONTEXTS, {})
    if not isinstance(contexts, dict):
        raise _refused(f"{path}: {CONTEXTS} is no table; a context is written [{CONTEXTS}.NAME].")
    decoded = {name: decode_context(name, values, path) for name, values in contexts.items()}
    current = document.get(CURRENT)
    if current is not None and (not isinstance(current, str) or current not in decoded):
        raise _refused(f"{path}: {CURRENT} = {current!r} names none of its contexts.")
    return Config(current, MappingProxyType(decoded))


def decode_context(name: str, values: Any, path: Path) -> Context:
    """One context, checked. Raises CommandFailed."""
    where = f"{path}, context {name!r}"
    if not _NAME.fullmatch(name):
        raise _refused(
            f"{where}: a name has at most 63 letters, digits, `.`, `_`, `-`, and begins with a letter or digit."
        )
    if not isinstance(values, dict):
        raise _refused(f"{where}: it is no table; a context is written [{CONTEXTS}.NAME].")
    known = {each.name for each in fields(Context)}
    _require_known(values, known, where)
    if "address" not in values:
        raise _refused(f"{where}: address is missing.")
    given = [key for key in _TOKEN_KEYS if key in values]
    if len(given) > 1:
        raise _refused(f"{where}: {' and '.join(given)} exclude each other.")
    checked = {key: _checked(key, value, where) for key, value in values.items()}
    for key in _PATHS:
        if key in checked:
            checked[key] = str(path.parent / Path(checked[key]).expanduser())
    return Context(**checked)


def _checked(key: str, value: Any, where: str) -> Any:
    if key == "tls":
        if not isinstance(value, bool):
            raise _refused(f"{where}: tls is true or false.")
        return value
    if key == "token_command":
        if not (isinstance(value, list) and 0 < len(value) <= MAX_WORDS and all(map(_is_text, value))):
            raise _refused(f'{where}: token_command is a list of words, such as ["gcloud", "auth", "print-token"].')
        return tuple(value)
    if not (isinstance(value, str) and value) if key == "token" else not _is_text(value):
        raise _refused(f"{where}: {key} is a string that is not empty, of at most {MAX_TEXT} characters.")
    return value


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT


def write_changes(change: Callable[[Any], None]) -> None:
    """Changes the file, and leaves what people wrote into it: comments and order. Only its owner can read it then.

    `change` is given the document, as dicts. The file is replaced as a whole, or stays as it is. Raises CommandFailed,
    OSError.
    """
    import tomlkit  # noqa: PLC0415  # only who changes the file waits for it

    read_config()  # nothing is written over what cannot be read
    path = config_path().resolve()
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    document: Any = tomlkit.parse(text)
    change(document)
    content = tomlkit.dumps(document)
    decode_config(tomllib.loads(content), path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".config-", delete=False) as file:
        beside = Path(file.name)  # readable by its owner alone
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            beside.unlink()
            raise
    beside.replace(path)


def _require_known(values: Mapping[str, Any], known: set[str], where: str) -> None:
    strangers = sorted(values.keys() - known)
    if strangers:
        raise _refused(f"{where}: {', '.join(strangers)} is not known; there is {', '.join(sorted(known))}.")


def _require_private(path: Path, mode: int) -> None:
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise _refused(
            f"{path} holds a token, and others can read it (mode {stat.S_IMODE(mode):04o}).",
            f"Run `chmod 600 {path}`, and consider the token as known to others.",
        )


def _refused(message: str, next_step: str = "") -> CommandFailed:
    return CommandFailed(message, next_step=next_step, exit_code=ExitCode.USAGE)
