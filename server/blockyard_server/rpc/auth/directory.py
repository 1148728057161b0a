"""From a proof to a principal, by one auth file: what a token, a verified JWT or a certificate stands for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from blockyard_server.domain.policy import Grant, Policy
from blockyard_server.rpc.auth.auth_file import AuthFile, ClaimMap, IssuerEntry, JwtSubject, PrincipalEntry
from blockyard_server.rpc.auth.auth_file_rules import TENANT
from blockyard_server.rpc.auth.authenticator import Certificate, Unauthenticated
from blockyard_server.rpc.auth.certificates import NamedOwners, names_in, proof_by
from blockyard_server.rpc.auth.hints import Hint, Scheme
from blockyard_server.rpc.auth.principal import DEFAULT_CALLER, Principal
from blockyard_server.rpc.names import is_id

MAX_MAPPED_POLICIES: Final = 1000
"""The most policies of mapped tenants that are remembered: names of tenants come from outside."""
MAX_CERTIFICATES: Final = 10_000
"""The most principals of certificates that are remembered: a pattern may stand for any number of names."""


@dataclass(frozen=True, slots=True)
class TokenProof:
    """A static token."""

    sha256: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CertificateProof:
    """A certificate, known by one of its names."""

    name: str


@dataclass(frozen=True, slots=True)
class JwtProof:
    """A JWT whose signature was right."""

    issuer: IssuerEntry
    """As the auth file described it then."""
    subject: str
    key: str
    """The id of the key that signed it."""
    mapped: bool = False
    """Its principal comes out of its claims, not out of an entry of the file."""


@dataclass(frozen=True, slots=True)
class FilePrincipal(Principal):
    """A principal, and what has proved it."""

    proof: TokenProof | CertificateProof | JwtProof = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class VerifiedJwt:
    """What is left of a JWT after everything about it was checked but whom it stands for."""

    proof: JwtProof
    claims: Mapping[str, Any]
    exp_s: float
    """When it ends by its own words, in seconds since the epoch."""
    expires_s: float
    """From when on it is refused: somewhat later, since clocks differ."""


class Directory:
    """The principals of one auth file. It never changes; a new file is a new directory."""

    def __init__(self, file: AuthFile) -> None:
        self.file = file
        self.issuers: Mapping[str, IssuerEntry] = {issuer.iss: issuer for issuer in file.issuers}
        """By `iss`."""
        self._policies = {entry.id: Policy(entry.grants) for entry in file.principals}
        self._callers_of: dict[str, frozenset[str]] = {}
        for entry in file.principals:
            self._callers_of[entry.tenant] = self._callers_of.get(entry.tenant, frozenset()).union(entry.callers)
        self.tokens: Mapping[bytes, FilePrincipal] = {
            token.sha256: self._principal(
                entry, self._policies[entry.id], f"token:{token.id}", TokenProof(token.sha256), token.not_after_s
            )
            for entry in file.principals
            for token in entry.tokens
        }
        """By digest."""
        self._entries = {entry.id: entry for entry in file.principals}
        self._subjects = {subject: entry for entry in file.principals for subject in entry.jwt}
        self._names = NamedOwners({name: entry for entry in file.principals for name in entry.x509})
        self._taken_tenants = {DEFAULT_CALLER, *(caller for entry in file.principals for caller in entry.callers)}
        self._mapped_policies: dict[tuple[str, str], Policy] = {}
        self._by_names: dict[tuple[str, ...], FilePrincipal] = {}

    def of_certificate(self, certificate: Certificate) -> FilePrincipal:
        """The principal of a peer that has shown nothing but this. Raises Unauthenticated."""
        if not certificate:
            raise Unauthenticated(Scheme.NONE, Hint.MISSING)
        names = names_in(certificate)
        principal = self._by_names.get(names)
        if principal is not None:
            return principal
        found = self._names.owner_of(names)
        if found is None:
            raise Unauthenticated(Scheme.CERTIFICATE, Hint.UNKNOWN)
        name, entry = found
        principal = self._principal(entry, self._policies[entry.id], proof_by(name), CertificateProof(name))
        if len(self._by_names) >= MAX_CERTIFICATES:
            self._by_names.clear()
        self._by_names[names] = principal
        return principal

    def of_jwt(self, jwt: VerifiedJwt) -> FilePrincipal:
        """The principal that a JWT stands for: the entry with its subject, else what the issuer's `map` makes.

        Raises Unauthenticated.
        """
        issuer = jwt.proof.issuer
        via = f"jwt:{issuer.name}"
        entry = self._subjects.get(JwtSubject(issuer.name, jwt.proof.subject))
        if entry is not None:
            return self._principal(entry, self._policies[entry.id], via, jwt.proof, jwt.expires_s)
        if issuer.map is None:
            raise Unauthenticated(Scheme.JWT, Hint.UNKNOWN, via)
        tenant, id_ = _mapped_names(issuer.map, jwt, via)
        if self._is_taken(tenant, id_):
            raise Unauthenticated(Scheme.JWT, Hint.NAME_TAKEN, via)
        entry = PrincipalEntry(id_, tenant, weight=issuer.map.weight, limits=issuer.map.limits)
        proof = JwtProof(issuer, jwt.proof.subject, jwt.proof.key, mapped=True)
        return self._principal(entry, self._mapped_policy(issuer, tenant), via, proof, jwt.expires_s)

    def still_has(self, principal: FilePrincipal) -> bool:
        """Whether its proof would lead to the same principal with the same rights. Expiry and keys are not asked."""
        match principal.proof:
            case TokenProof(digest):
                today = self.tokens.get(digest)
                return today is not None and _rights(today) == _rights(principal)
            case CertificateProof(name):
                try:
                    found = self._names.owner_of([name])
                except Unauthenticated:
                    return False
                return found is not None and self._is_entry(principal, found[1])
            case JwtProof(issuer, subject, mapped=mapped):
                entry = self._subjects.get(JwtSubject(issuer.name, subject))
                if self.issuers.get(issuer.iss) != issuer or mapped != (entry is None):
                    return False
                return (
                    not self._is_taken(principal.tenant, principal.id)
                    if entry is None
                    else self._is_entry(principal, entry)
                )

    def _is_entry(self, principal: FilePrincipal, entry: PrincipalEntry) -> bool:
        return _rights(principal) == (entry.id, entry.tenant, entry.grants, self._callers_of[entry.tenant])

    def _principal(
        self,
        entry: PrincipalEntry,
        policy: Policy,
        via: str,
        proof: TokenProof | CertificateProof | JwtProof,
        expires_s: float | None = None,
    ) -> FilePrincipal:
        return FilePrincipal(
            entry.id,
            entry.tenant,
            via,
            policy,
            self._callers_of.get(entry.tenant, frozenset()),
            entry.weight,
            entry.limits,
            expires_s,
            proof=proof,
        )

    def _is_taken(self, tenant: str, id_: str) -> bool:
        """A mapped name must not be that of an owner of the time before identities, nor of an entry of the file."""
        entry = self._entries.get(id_)
        return tenant in self._taken_tenants or (entry is not None and entry.tenant == tenant)

    def _mapped_policy(self, issuer: IssuerEntry, tenant: str) -> Policy:
        key = (issuer.name, tenant)
        policy = self._mapped_policies.get(key)
        if policy is None:
            assert issuer.map is not None
            policy = Policy(
                [
                    Grant(each.role, tuple(pattern.replace(TENANT, tenant) for pattern in each.fleets))
                    for each in issuer.map.grants
                ]
            )
            if len(self._mapped_policies) >= MAX_MAPPED_POLICIES:
                self._mapped_policies.clear()
            self._mapped_policies[key] = policy
        return policy


def _rights(principal: Principal) -> tuple[object, ...]:
    return principal.id, principal.tenant, principal.policy.grants, principal.callers


def _mapped_names(map_: ClaimMap, jwt: VerifiedJwt, via: str) -> tuple[str, str]:
    """The tenant and the principal's id. Raises Unauthenticated unless both are ids."""
    tenant = _claim(jwt.claims, map_.tenant)
    id_ = jwt.proof.subject.rpartition(":")[2] if map_.id is None else _claim(jwt.claims, map_.id)
    if isinstance(tenant, str) and isinstance(id_, str) and is_id(tenant) and is_id(id_):
        return tenant, id_
    raise Unauthenticated(Scheme.JWT, Hint.NOT_AN_ID, via)


def _claim(claims: object, way: tuple[str, ...]) -> object:
    for key in way:
        if not isinstance(claims, Mapping):
            return None
        claims = claims.get(key)
    return claims
