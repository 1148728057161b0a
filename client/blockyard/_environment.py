"""The credentials that the environment names. A client never looks for them by itself: whoever makes it decides."""

import os
from collections.abc import Mapping
from typing import Final, TypedDict

from blockyard._tls import Tls

TOKEN: Final = "BLOCKYARD_TOKEN"
TOKEN_FILE: Final = "BLOCKYARD_TOKEN_FILE"
CA: Final = "BLOCKYARD_CA"
CERT: Final = "BLOCKYARD_CERT"
KEY: Final = "BLOCKYARD_KEY"
SERVER_NAME: Final = "BLOCKYARD_SERVER_NAME"
TLS: Final = "BLOCKYARD_TLS"
_SWITCH: Final = {"": None, "1": True, "true": True, "0": False, "false": False}


class CredentialArguments(TypedDict, total=False):
    """Arguments of `Client` and `AsyncClient`, such as `Client(**credentials_from_environment())`."""

    token: str
    token_file: str
    tls: Tls


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
