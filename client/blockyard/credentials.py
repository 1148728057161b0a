"""How a client proves who it is and knows its server, and which principal the server takes it for.

A client never looks for credentials in the environment by itself: the program that makes it decides.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypedDict

TOKEN: Final = "BLOCKYARD_TOKEN"
TOKEN_FILE: Final = "BLOCKYARD_TOKEN_FILE"
CA: Final = "BLOCKYARD_CA"
CERT: Final = "BLOCKYARD_CERT"
KEY: Final = "BLOCKYARD_KEY"
SERVER_NAME: Final = "BLOCKYARD_SERVER_NAME"
TLS: Final = "BLOCKYARD_TLS"
_SWITCH: Final = {"": None, "1": True, "true": True, "0": False, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """What a client needs for TLS, as files in PEM. `Tls()` trusts the public authorities that gRPC knows.

    Files that change on disk are used without a restart: they are looked at once a minute and when a connection
    fails.

    Raises:
        ValueError: A certificate without its key, a key without its certificate, or something empty.
    """

    ca: str | os.PathLike[str] | None = None
    """The authorities that may have signed the server's certificate. None: those that gRPC knows."""
    cert: str | os.PathLike[str] | None = None
    """The client's certificate, with those between it and its authority. None: the server is not told who calls."""
    key: str | os.PathLike[str] | None = None
    """The key of `cert`, not encrypted."""
    server_name: str | None = None
    """The name that the server's certificate has to carry. None: the host of the target; of a list, the first host."""

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            given, missing = ("key", "cert") if self.cert is None else ("cert", "key")
            raise ValueError(f"{given} is given without {missing}: a client certificate needs both")
        for name in ("ca", "cert", "key", "server_name"):
            value = getattr(self, name)
            if value is not None and not os.fspath(value):
                raise ValueError(f"{name} is empty; omit it instead")


@dataclass(frozen=True, slots=True)
class RoleGrant:
    """A role on some fleets."""

    role: str
    """`viewer`, `auditor`, `scheduler`, `operator`, `admin`, or one that only a newer server knows."""
    fleets: tuple[str, ...]
    """Patterns of fleets' ids; `*` stands for any characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who the server takes the caller for."""

    principal: str
    """The principal's id; `anonymous` where the server does not ask who calls."""
    tenant: str
    """The owner of what the caller acquires; `anonymous` where the server does not ask."""
    via: str
    """How the caller proved who it is: `token:{id}`, `jwt:{issuer}`, a name of its certificate, `socket`, `none`."""
    grants: tuple[RoleGrant, ...]
    """What was granted to it."""
    expire_time: datetime | None
    """When the credentials expire. None: not by themselves."""


class CredentialArguments(TypedDict, total=False):
    """Arguments of `Client` and `AsyncClient`, such as `Client(**credentials_from_environment())`."""

    token: str
    """As `Client` takes it."""
    token_file: str
    """As `Client` takes it."""
    tls: Tls
    """As `Client` takes it."""


def credentials_from_environment(environment: Mapping[str, str] | None = None) -> CredentialArguments:
    """The credentials that BLOCKYARD_TOKEN, _TOKEN_FILE, _CA, _CERT, _KEY, _SERVER_NAME and _TLS name.

    BLOCKYARD_TLS=1 asks for TLS; so does each of the four before it. A variable that is empty counts as not set.

    Args:
        environment: The variables. None: the process's own.

    Raises:
        ValueError: Variables contradict each other.
    """
    variables = os.environ if environment is None else environment
    arguments = CredentialArguments()
    token, token_file = variables.get(TOKEN), variables.get(TOKEN_FILE)
    if token and token_file:
        raise ValueError(f"{TOKEN} and {TOKEN_FILE} are both set; unset one of them")
    if token:
        arguments["token"] = token
    if token_file:
        arguments["token_file"] = token_file
    tls = tls_of(
        switch_of(variables),
        ca=variables.get(CA),
        cert=variables.get(CERT),
        key=variables.get(KEY),
        server_name=variables.get(SERVER_NAME),
    )
    if tls is not None:
        arguments["tls"] = tls
    return arguments


def switch_of(variables: Mapping[str, str]) -> bool | None:
    """What BLOCKYARD_TLS says; None: nothing.

    Raises:
        ValueError: It is neither 1, 0, true nor false.
    """
    text = variables.get(TLS, "").lower()
    if text not in _SWITCH:
        raise ValueError(f"{TLS} is {text!r}; write 1 or 0")
    return _SWITCH[text]


def tls_of(
    switch: bool | None,  # noqa: FBT001  # what there is to decide
    *,
    ca: str | None,
    cert: str | None,
    key: str | None,
    server_name: str | None,
) -> Tls | None:
    """TLS if it is asked for, by the switch or by any of the others. Empty ones are none.

    Raises:
        ValueError: They contradict each other.
    """
    given = {"ca": ca or None, "cert": cert or None, "key": key or None, "server_name": server_name or None}
    named = [name for name, value in given.items() if value]
    if switch is False and named:
        raise ValueError(f"TLS is switched off, and {', '.join(named)} given; leave one of them out")
    return Tls(**given) if switch or named else None
