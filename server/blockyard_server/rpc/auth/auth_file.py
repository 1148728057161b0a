"""The auth file: who may call, how each caller proves who it is, and what each may do. `directory.py` uses it.

A file is accepted as a whole or refused as a whole. What is not understood is refused, with a line for each problem: a
misspelt key would otherwise be a rule without effect. What is absent grants nothing. docs/reference/auth-file.md has
every key; a test compares the two.
"""

import stat
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from blockyard_server.domain.policy import Grant, Role
from blockyard_server.rpc.auth import auth_file_rules as rules
from blockyard_server.rpc.auth.principal import PrincipalLimits
from blockyard_server.rpc.auth.regular_file import read_regular_file
from blockyard_server.rpc.auth.toml_table import Problems, Rule, Table, shown

MAX_FILE_BYTES: Final = 2 * 1024 * 1024
MAX_PRINCIPALS: Final = 4000
MAX_ISSUERS: Final = 16
MAX_PROOFS: Final = 16
"""The most tokens, names of certificates, and subjects of JWTs of one principal: of each."""
MAX_CALLERS: Final = 64
MAX_GRANTS: Final = 64
MAX_PATTERNS: Final = 64
"""Patterns of fleets in one grant."""
MAX_WEIGHT: Final = 20
MAX_LIMIT: Final = 1_000_000_000
_DIGEST: Final = "a sha256"
DEFAULT_ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")


class AuthFileRefused(Exception):
    """The file cannot be used; `problems` has a sentence for each thing that is wrong with it."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems: Final = tuple(problems)
        super().__init__("; ".join(self.problems))


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """A static token of a principal."""

    id: str
    """Its name in logs."""
    sha256: bytes
    """The digest of the whole token."""
    not_after_s: float | None = None
    """From when on it is refused, in seconds since the epoch; None: never."""


@dataclass(frozen=True, slots=True)
class JwtSubject:
    """A subject of an issuer, as its JWTs name it."""

    issuer: str
    """The issuer's name in this file."""
    sub: str


@dataclass(frozen=True, slots=True)
class PrincipalEntry:
    """One principal with all its proofs."""

    id: str
    tenant: str
    tokens: tuple[TokenEntry, ...] = ()
    x509: tuple[str, ...] = ()
    """Names of certificates: SPIFFE ids, URIs, DNS names, with `*` in the last path segment."""
    jwt: tuple[JwtSubject, ...] = ()
    callers: tuple[str, ...] = ()
    grants: tuple[Grant, ...] = ()
    weight: int = 1
    limits: PrincipalLimits = field(default_factory=PrincipalLimits)


@dataclass(frozen=True, slots=True)
class ClaimMap:
    """How the claims of a JWT make a principal that has no entry of its own."""

    tenant: tuple[str, ...]
    """Where the tenant is in the claims: keys from the outermost on."""
    id: tuple[str, ...] | None = None
    """Where the principal's id is; None: in `sub`, after its last colon."""
    grants: tuple[Grant, ...] = ()
    """Their patterns may have `{tenant}`."""
    weight: int = 1
    limits: PrincipalLimits = field(default_factory=PrincipalLimits)


@dataclass(frozen=True, slots=True)
class IssuerEntry:
    """Who signs JWTs."""

    name: str
    """In this file, and in the journal: `jwt:k8s`."""
    iss: str
    audience: str
    jwks: str
    """Where its public keys are: `https://…` or `file:///…`."""
    ca: str | None = None
    """The file of certificates that the host of `jwks` is checked against; None: those of the system."""
    algorithms: tuple[str, ...] = DEFAULT_ALGORITHMS
    map: ClaimMap | None = None


@dataclass(frozen=True, slots=True)
class AuthFile:
    """What the file says."""

    principals: tuple[PrincipalEntry, ...]
    issuers: tuple[IssuerEntry, ...]
    warnings: tuple[str, ...] = ()
    """What is allowed and probably not meant."""


def load_auth_file(path: Path) -> AuthFile:
    """Reads the file. Raises AuthFileRefused, also if it cannot be read."""
    try:
        data, mode = read_regular_file(path, MAX_FILE_BYTES + 1)
    except OSError as error:
        raise AuthFileRefused([f"the file cannot be read: {error.strerror or error}"]) from error
    if len(data) > MAX_FILE_BYTES:
        raise AuthFileRefused([f"the file is larger than {MAX_FILE_BYTES} bytes"])
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise AuthFileRefused([f"the file is not UTF-8, from byte {error.start} on"]) from error
    found = parse_auth_file(text)
    return replace(found, warnings=(*_doubts_about_mode(mode), *found.warnings))


def parse_auth_file(text: str) -> AuthFile:
    """What the text says. Raises AuthFileRefused."""
    try:
        values = tomllib.loads(text)
    except RecursionError as error:
        raise AuthFileRefused(["the file is not TOML: it is nested too deeply"]) from error
    except ValueError as error:  # most are TOMLDecodeErrors, which say where; a number of many digits is none
        raise AuthFileRefused([f"the file is not TOML: {error}"]) from error
    problems = Problems()
    root = Table(values, "the file", problems)
    file = AuthFile(
        tuple(_read_principal(each) for each in _numbered(root, "principal", "id", MAX_PRINCIPALS)),
        tuple(_read_issuer(each) for each in _numbered(root, "issuer", "name", MAX_ISSUERS)),
    )
    root.close()
    if not problems.told:
        if not file.principals and not file.issuers:
            root.refuse("", "has neither a principal nor an issuer, so that nobody could log in")
        _check_proofs(file, problems)
        _check_callers(file, problems)
    if problems.told:
        raise AuthFileRefused(problems.told)
    return replace(file, warnings=tuple(_doubts(file)))


def _numbered(root: Table, key: str, name_key: str, most: int) -> Iterator[Table]:
    """The tables of `[[key]]`; each has its number and its name as its place."""
    for number, table in enumerate(root.tables(key, most=most), start=1):
        yield table.renamed(f"{key} {number}", name_key, rules.id_rule)


def _read_principal(table: Table) -> PrincipalEntry:
    id_ = table.text("id", rules.id_rule)
    entry = PrincipalEntry(
        id_,
        table.text("tenant", rules.id_rule, default=id_),
        tokens=tuple(_read_token(each) for each in table.tables("tokens", most=MAX_PROOFS)),
        x509=table.texts("x509", rules.certificate_name_rule, least=0, most=MAX_PROOFS, default=()),
        jwt=tuple(_read_subject(each) for each in table.tables("jwt", most=MAX_PROOFS)),
        callers=table.texts("callers", rules.id_rule, least=0, most=MAX_CALLERS, default=()),
        grants=_read_grants(table, rules.fleets_rule),
        weight=_read_weight(table),
        limits=_read_limits(table),
    )
    table.close()
    return entry


def _read_token(table: Table) -> TokenEntry:
    digest = table.text("sha256", rules.digest_rule)
    entry = TokenEntry(table.text("id", rules.token_id_rule), bytes.fromhex(digest), table.instant("not_after"))
    table.close()
    return entry


def _read_subject(table: Table) -> JwtSubject:
    entry = JwtSubject(table.text("issuer", rules.id_rule), table.text("sub", rules.line_rule))
    table.close()
    return entry


def _read_issuer(table: Table) -> IssuerEntry:
    claims = table.table("map")
    entry = IssuerEntry(
        table.text("name", rules.id_rule),
        iss=table.text("iss", rules.line_rule),
        audience=table.text("audience", rules.line_rule),
        jwks=table.text("jwks", rules.jwks_rule),
        ca=table.optional_text("ca", rules.path_rule),
        algorithms=table.texts(
            "algorithms", rules.algorithm_rule, least=1, most=len(rules.ALGORITHMS), default=DEFAULT_ALGORITHMS
        ),
        map=None if claims is None else _read_map(claims),
    )
    if entry.ca and entry.jwks.startswith("file:"):
        table.refuse("ca", "is of no use: the keys are read from a file")
    table.close()
    return entry


def _read_map(table: Table) -> ClaimMap:
    id_ = table.optional_text("id", rules.claim_rule)
    entry = ClaimMap(
        tuple(table.text("tenant", rules.claim_rule).split("/")),
        None if id_ is None else tuple(id_.split("/")),
        grants=_read_grants(table, rules.mapped_fleets_rule),
        weight=_read_weight(table),
        limits=_read_limits(table),
    )
    table.close()
    return entry


def _read_grants(table: Table, fleets_rule: Rule) -> tuple[Grant, ...]:
    grants = []
    for each in table.tables("grant", most=MAX_GRANTS):
        role = each.text("role", rules.role_rule)
        fleets = each.texts("fleets", fleets_rule, least=1, most=MAX_PATTERNS)
        each.close()
        if role:
            grants.append(Grant(Role(role), fleets))
    return tuple(grants)


def _read_weight(table: Table) -> int:
    return int(table.number("weight", least=1, most=MAX_WEIGHT, default=1, whole=True))


def _read_limits(table: Table) -> PrincipalLimits:
    limits = table.table("limits")
    if limits is None:
        return PrincipalLimits()
    values: dict[str, Any] = {}
    for each in fields(PrincipalLimits):
        default: Any = each.default
        whole = isinstance(default, int)
        values[each.name] = limits.number(each.name, least=0, most=MAX_LIMIT, default=default, whole=whole)
    limits.close()
    found = PrincipalLimits(**values)
    # A rate without room for a burst would let no call pass.
    return found if found.burst else replace(found, burst=found.units_per_s)


def _check_proofs(file: AuthFile, problems: Problems) -> None:
    """One proof must lead to one principal."""
    found: dict[str, dict[object, list[str]]] = defaultdict(lambda: defaultdict(list))
    names = {issuer.name for issuer in file.issuers}
    for place, principal in _placed(file.principals):
        found["the id"][principal.id].append(place)
        for token in principal.tokens:
            found["the token id"][token.id].append(place)
            found[_DIGEST][token.sha256].append(place)
        for name in principal.x509:
            found["the certificate's name"][name].append(place)
        for subject in principal.jwt:
            found[f"the subject of {subject.issuer}"][subject.sub].append(place)
            if subject.issuer not in names:
                problems.add(place, f"jwt names the issuer {shown(subject.issuer)}, which the file does not have")
    for number, issuer in enumerate(file.issuers, start=1):
        found["the name"][issuer.name].append(f"issuer {number} ({issuer.name})")
        found["iss"][issuer.iss].append(f"issuer {number} ({issuer.name})")
    for what, places in found.items():
        problems.add_repeats(what, places, show=what != _DIGEST)


def _check_callers(file: AuthFile, problems: Problems) -> None:
    """What was acquired before there were identities has one owner."""
    tenants = {principal.tenant for principal in file.principals}
    owners: dict[str, str] = {}
    for place, principal in _placed(file.principals):
        for caller in principal.callers:
            if caller in tenants and caller != principal.tenant:
                problems.add(place, f"callers has {shown(caller)}, which is another tenant")
            elif owners.setdefault(caller, principal.tenant) != principal.tenant:
                problems.add(place, f"callers has {shown(caller)}, which the tenant {owners[caller]} has already")


def _placed(principals: Sequence[PrincipalEntry]) -> Iterator[tuple[str, PrincipalEntry]]:
    return ((f"principal {number} ({each.id})", each) for number, each in enumerate(principals, start=1))


def _doubts_about_mode(mode: int) -> Iterator[str]:
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        yield f"the file has mode {mode:04o}, so that others may use it; chmod 600 keeps them out"


def _doubts(file: AuthFile) -> Iterator[str]:
    for place, principal in _placed(file.principals):
        if not (principal.tokens or principal.x509 or principal.jwt):
            yield f"{place}: has no tokens, x509 or jwt, so that it cannot log in"
        if not principal.grants:
            yield f"{place}: has no grant, so that it may do nothing"
    for number, issuer in enumerate(file.issuers, start=1):
        if issuer.map is not None and not issuer.map.grants:
            yield f"issuer {number} ({issuer.name}): map has no grant, so that those it maps may do nothing"
