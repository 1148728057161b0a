"""The auth file: what it may say, and a sentence with its place for whatever else it says."""

from collections.abc import Callable
from pathlib import Path

import pytest

from blockyard_server.domain.policy import Grant, Policy, Role
from blockyard_server.rpc.auth.auth_file import (
    MAX_CALLERS,
    MAX_FILE_BYTES,
    MAX_GRANTS,
    MAX_ISSUERS,
    MAX_PATTERNS,
    MAX_PRINCIPALS,
    MAX_PROOFS,
    AuthFileRefused,
    ClaimMap,
    IssuerEntry,
    JwtSubject,
    PrincipalEntry,
    TokenEntry,
    load_auth_file,
    parse_auth_file,
)
from blockyard_server.rpc.auth.principal import PrincipalLimits
from blockyard_server.rpc.auth.tokens import new_token

SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
FULL = f"""
[[principal]]
id = "sched-a"
tenant = "train"
tokens = [{{ id = "k3v9", sha256 = "{SHA}", not_after = 2027-01-01T00:00:00Z }}]
x509 = ["spiffe://corp.example/ns/train/sa/scheduler"]
jwt = [{{ issuer = "k8s", sub = "system:serviceaccount:train:scheduler" }}]
callers = ["default"]
grant = [{{ role = "scheduler", fleets = ["train-*"] }}, {{ role = "viewer", fleets = ["*"] }}]
weight = 2
limits = {{ units_per_s = 2000, burst = 4000, watches = 200 }}

[[issuer]]
name = "k8s"
iss = "https://kubernetes.default.svc"
audience = "blockyard"
jwks = "https://kubernetes.default.svc/openid/v1/jwks"
ca = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
algorithms = ["ES256"]
map = {{ tenant = "kubernetes.io/namespace", grant = [{{ role = "scheduler", fleets = ["{{tenant}}-*"] }}] }}
"""
ISSUER = '[[issuer]]\nname = "k8s"\niss = "https://x"\naudience = "b"\njwks = "file:///j"\n'
MAP = 'tenant = "ns", grant = [{ role = "viewer", fleets = ["*"] }]'


def principal(text: str = "", id_: str = "a") -> str:
    return f'[[principal]]\nid = "{id_}"\n{text}\n'


def problems_of(text: str) -> tuple[str, ...]:
    with pytest.raises(AuthFileRefused) as refused:
        parse_auth_file(text)
    return refused.value.problems


def test_every_key_is_read() -> None:
    file = parse_auth_file(FULL)

    assert file.principals == (
        PrincipalEntry(
            "sched-a",
            "train",
            tokens=(TokenEntry("k3v9", bytes.fromhex(SHA), 1_798_761_600.0),),
            x509=("spiffe://corp.example/ns/train/sa/scheduler",),
            jwt=(JwtSubject("k8s", "system:serviceaccount:train:scheduler"),),
            callers=("default",),
            grants=(Grant(Role.SCHEDULER, ("train-*",)), Grant(Role.VIEWER, ("*",))),
            weight=2,
            limits=PrincipalLimits(units_per_s=2000, burst=4000, watches=200),
        ),
    )
    assert file.issuers == (
        IssuerEntry(
            "k8s",
            "https://kubernetes.default.svc",
            "blockyard",
            "https://kubernetes.default.svc/openid/v1/jwks",
            "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
            ("ES256",),
            ClaimMap(("kubernetes.io", "namespace"), grants=(Grant(Role.SCHEDULER, ("{tenant}-*",)),)),
        ),
    )
    assert file.warnings == ()


def test_what_is_absent_has_its_default_and_grants_nothing() -> None:
    (found,) = parse_auth_file(principal()).principals

    assert found == PrincipalEntry("a", "a")
    assert not Policy(found.grants).on("any")


@pytest.mark.parametrize("grant", ["", "grant = []"])
def test_an_empty_grant_means_nothing_and_never_everything(grant: str) -> None:
    (found,) = parse_auth_file(principal(grant)).principals

    assert found.grants == ()
    assert not any(Policy(found.grants).on(fleet) for fleet in ("", "*", "a", "train-1"))


def test_a_rate_without_a_burst_has_one_of_a_second() -> None:
    (found,) = parse_auth_file(principal("limits = { units_per_s = 2.5 }")).principals

    assert (found.limits.units_per_s, found.limits.burst) == (2.5, 2.5)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file: has neither a principal nor an issuer, so that nobody could log in"),
        ("principal = 1", "the file: principal: must be a list, as in [ … ]"),
        ("principals = 1", "the file: unknown key 'principals'; known are issuer, principal"),
        ("[[principal]]\n", "principal 1: id: is required"),
        (principal("weigth = 2"), "principal 1 (a): unknown key 'weigth'; known are callers, grant, "),
        (principal('"\\u001b[2J" = 2'), "principal 1 (a): unknown key '\\x1b[2J'"),
        (principal(id_="A"), "principal 1: id: must be 1..63 characters of [a-z0-9._-]"),
        (principal("tenant = 3"), "principal 1 (a): tenant: must be a text in quotes"),
        (principal('tenant = ""'), "principal 1 (a): tenant: must be 1..63 characters"),
        (principal('tenant = "a/b"'), "principal 1 (a): tenant: must be 1..63 characters"),
        (principal("tokens = 1"), "principal 1 (a): tokens: must be a list"),
        (principal("tokens = [1]"), "principal 1 (a): tokens[0]: must be a table"),
        (principal('tokens = [{ id = "x" }]'), "principal 1 (a): tokens[0]: sha256: is required"),
        (principal(f'tokens = [{{ sha256 = "{SHA}" }}]'), "principal 1 (a): tokens[0]: id: is required"),
        (
            principal(f'tokens = [{{ id = "x", sha256 = "{SHA}", expires = 1 }}]'),
            "principal 1 (a): tokens[0]: unknown key 'expires'; known are id, not_after, sha256",
        ),
        (principal(f'tokens = [{{ id = "x", sha256 = "{SHA[1:]}" }}]'), "tokens[0]: sha256: must be the SHA-256 of"),
        (principal(f'tokens = [{{ id = "x y", sha256 = "{SHA}" }}]'), "tokens[0]: id: must be 1..32 characters"),
        (
            principal(f'tokens = [{{ id = "x", sha256 = "{SHA}", not_after = 2027-01-01 }}]'),
            "tokens[0]: not_after: must be a time with its offset",
        ),
        (
            principal(f'tokens = [{{ id = "x", sha256 = "{SHA}", not_after = 2027-01-01T00:00:00 }}]'),
            "tokens[0]: not_after: must be a time with its offset",
        ),
        (
            principal(f'tokens = [{{ id = "x", sha256 = "{SHA}", not_after = "2027-01-01T00:00:00Z" }}]'),
            "tokens[0]: not_after: must be a time with its offset, without quotes",
        ),
        (principal('x509 = ["*"]'), "principal 1 (a): x509[0]: '*' has *, which only the last path segment"),
        (principal('x509 = ["a", "a"]'), "principal 1 (a): x509[1]: 'a' is given twice"),
        (principal('jwt = [{ issuer = "k8s" }]'), "principal 1 (a): jwt[0]: sub: is required"),
        (
            principal('jwt = [{ issuer = "k9s", sub = "x" }]') + ISSUER,
            "principal 1 (a): jwt names the issuer 'k9s', which the file does not have",
        ),
        (principal('callers = ["a b"]'), "principal 1 (a): callers[0]: must be 1..63 characters"),
        (principal('grant = [{ role = "root", fleets = ["*"] }]'), "grant[0]: role: must be one of viewer, auditor, "),
        (principal('grant = [{ role = "", fleets = ["*"] }]'), "grant[0]: role: must be one of viewer, auditor, "),
        (principal('grant = [{ fleets = ["*"] }]'), "principal 1 (a): grant[0]: role: is required"),
        (principal('grant = [{ role = "viewer" }]'), "principal 1 (a): grant[0]: fleets: is required"),
        (principal('grant = [{ role = "viewer", fleets = [] }]'), "grant[0]: fleets: has 0 entries, and must have 1"),
        (principal('grant = [{ role = "viewer", fleets = "*" }]'), "grant[0]: fleets: must be a list"),
        (principal('grant = [{ role = "viewer", fleet = ["*"] }]'), "grant[0]: unknown key 'fleet'"),
        *(
            (
                principal(f'grant = [{{ role = "viewer", fleets = ["{glob}"] }}]'),
                f"principal 1 (a): grant[0]: fleets[0]: '{glob}' matches no fleet",
            )
            for glob in ("", "?", "a[0-9]", "A*", "-*", "*-", "a/*", "{tenant}-*")
        ),
        *(
            (principal(f"weight = {weight}"), "principal 1 (a): weight: must be a whole number from 1 to 20")
            for weight in ("0", "21", "-1", "1.5", "true", '"2"', "nan")
        ),
        *(
            (
                principal(f"limits = {{ units_per_s = {value} }}"),
                "limits: units_per_s: must be a number from 0 to 1,000,000,000",
            )
            for value in ("-1", "nan", "inf", "true", '"1"', "1_000_000_001")
        ),
        (principal("limits = { calls = 1.5 }"), "principal 1 (a): limits: calls: must be a whole number"),
        (principal("limits = { qps = 1 }"), "principal 1 (a): limits: unknown key 'qps'; known are burst, calls, "),
        (principal("limits = 3"), "principal 1 (a): limits: must be a table"),
        (ISSUER.replace('audience = "b"\n', ""), "issuer 1 (k8s): audience: is required"),
        (ISSUER.replace('iss = "https://x"', 'iss = ""'), "issuer 1 (k8s): iss: must be 1..512 printable ASCII"),
        (ISSUER + 'ca = "/ca.pem"', "issuer 1 (k8s): ca: is of no use: the keys are read from a file"),
        (ISSUER + "algorithms = []", "issuer 1 (k8s): algorithms: has 0 entries, and must have 1 to 10"),
        *(
            (ISSUER + f'algorithms = ["ES256", "{name}"]', "issuer 1 (k8s): algorithms[1]: must be one of RS256, ")
            for name in ("HS256", "none", "None", "es256", "")
        ),
        *(
            (ISSUER.replace("file:///j", jwks), "issuer 1 (k8s): jwks: must ")
            for jwks in (
                "",
                "http://x/jwks",
                "ftp://x/jwks",
                "https:///jwks",
                "file://host/jwks",
                "file:jwks",
                "/etc/jwks",
                "https://u:p@x/jwks",
                "https://x/jwks#a",
                "https://x/a b",
                "https://x/\\n",
            )
        ),
        (ISSUER.replace("file:///j", "https://[x/"), "issuer 1 (k8s): jwks: is not a URL"),
        (ISSUER + "map = {}", "issuer 1 (k8s): map: tenant: is required"),
        (ISSUER + 'map = { tenant = "a//b" }', "issuer 1 (k8s): map: tenant: must be a claim's name"),
        (ISSUER + f'map = {{ {MAP}, id = "/" }}', "issuer 1 (k8s): map: id: must be a claim's name"),
        (ISSUER + f'map = {{ {MAP}, sub = "x" }}', "issuer 1 (k8s): map: unknown key 'sub'"),
        (
            ISSUER + 'map = { tenant = "ns", grant = [{ role = "viewer", fleets = ["{team}-*"] }] }',
            "issuer 1 (k8s): map: grant[0]: fleets[0]: '{team}-*' matches no fleet",
        ),
        ("a = ", "the file is not TOML: Invalid value (at end of document)"),
        (principal('grant = [{ role = "viewer", fleets = ["é"] }]'), "fleets[0]: '\\xe9' matches no fleet"),
        (principal(f'grant = [{{ role = "viewer", fleets = ["{"a" * 64}"] }}]'), "matches no fleet"),
        (f"a = {'[' * 5000}", "the file is not TOML: it is nested too deeply"),
        (f"a = {'9' * 5000}", "the file is not TOML: "),
        ("a = 1\na = 2", "the file is not TOML: Cannot overwrite a value"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(text: str, problem: str) -> None:
    problems = problems_of(text)

    assert [each for each in problems if problem in each], problems


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (principal() * 2, "principal 2 (a): the id 'a' is also that of principal 1 (a)"),
        (
            principal(f'tokens = [{{ id = "x", sha256 = "{SHA}" }}]')
            + principal(f'tokens = [{{ id = "x", sha256 = "{"0" * 64}" }}]', "b"),
            "principal 2 (b): the token id 'x' is also that of principal 1 (a)",
        ),
        (
            principal(f'tokens = [{{ id = "x", sha256 = "{SHA}" }}]')
            + principal(f'tokens = [{{ id = "y", sha256 = "{SHA.upper()}" }}]', "b"),
            "principal 2 (b): a sha256 is also that of principal 1 (a)",
        ),
        (
            principal('x509 = ["host"]') + principal('x509 = ["host"]', "b"),
            "principal 2 (b): the certificate's name 'host' is also that of principal 1 (a)",
        ),
        (
            principal('jwt = [{ issuer = "k8s", sub = "s" }]')
            + principal('jwt = [{ issuer = "k8s", sub = "s" }]', "b")
            + ISSUER,
            "principal 2 (b): the subject of k8s 's' is also that of principal 1 (a)",
        ),
        (ISSUER * 2, "issuer 2 (k8s): the name 'k8s' is also that of issuer 1 (k8s)"),
        (ISSUER + ISSUER.replace("k8s", "k9s"), "issuer 2 (k9s): iss 'https://x' is also that of issuer 1 (k8s)"),
        (
            principal('callers = ["old"]') + principal('callers = ["old"]', "b"),
            "principal 2 (b): callers has 'old', which the tenant a has already",
        ),
        (
            principal('callers = ["b"]') + principal("", "b"),
            "principal 1 (a): callers has 'b', which is another tenant",
        ),
    ],
)
def test_two_that_would_be_taken_for_one_are_refused(text: str, problem: str) -> None:
    assert problem in problems_of(text)


def test_principals_of_one_tenant_may_own_the_same_callers() -> None:
    text = principal('tenant = "t"\ncallers = ["old", "t"]') + principal('tenant = "t"\ncallers = ["old"]', "b")

    assert len(parse_auth_file(text).principals) == 2


@pytest.mark.parametrize(
    ("most", "text"),
    [
        (MAX_PRINCIPALS, lambda number: "".join(principal("", f"a{each}") for each in range(number))),
        (
            MAX_ISSUERS,
            lambda number: "".join(ISSUER.replace("k8s", f"k{i}").replace("x", f"x{i}") for i in range(number)),
        ),
        (
            MAX_PROOFS,
            lambda number: principal(
                "tokens = [" + ",".join(f'{{ id = "t{i}", sha256 = "{i:064}" }}' for i in range(number)) + "]"
            ),
        ),
        (MAX_PROOFS, lambda number: principal(f"x509 = {[f'host-{i}' for i in range(number)]}")),
        (
            MAX_PROOFS,
            lambda number: (
                principal("jwt = [" + ",".join(f'{{ issuer = "k8s", sub = "s{i}" }}' for i in range(number)) + "]")
                + ISSUER
            ),
        ),
        (MAX_CALLERS, lambda number: principal(f"callers = {[f'c{i}' for i in range(number)]}")),
        (
            MAX_GRANTS,
            lambda number: principal(
                "grant = [" + ",".join('{ role = "viewer", fleets = ["*"] }' for _ in range(number)) + "]"
            ),
        ),
        (
            MAX_PATTERNS,
            lambda number: principal(f'grant = [{{ role = "viewer", fleets = {[f"f{i}" for i in range(number)]} }}]'),
        ),
    ],
    ids=["principals", "issuers", "tokens", "x509", "jwt", "callers", "grants", "fleets"],
)
def test_each_list_has_its_limit(most: int, text: Callable[[int], str]) -> None:
    parse_auth_file(text(most))

    assert f"has {most + 1} entries, and " in " ".join(problems_of(text(most + 1)))


def test_all_problems_are_told_at_once_and_not_more_than_a_hundred() -> None:
    assert len(problems_of(principal("weight = 0\ntenant = 1\nx = 1"))) == 3
    many = problems_of("".join(f"x{each} = 1\n" for each in range(150)))

    assert len(many) == 101
    assert many[-1] == "and 50 more"


@pytest.mark.parametrize(
    "place",
    [
        'tenant = "{}"',
        'tokens = [{{ id = "{}", sha256 = "{}" }}]',
        'x509 = ["{} "]',
        'callers = ["{}", "{}"]',
        'grant = [{{ role = "{}", fleets = ["{}"] }}]',
        '"{}" = 1',
        'jwt = [{{ issuer = "{}", sub = "x" }}]',
    ],
)
def test_a_token_that_stands_in_the_wrong_place_is_not_told(place: str) -> None:
    secret = new_token().secret
    problems = problems_of(principal(place.format(secret, secret)))

    assert problems
    assert secret[:20] not in " ".join(problems)


def test_what_is_probably_not_meant_is_allowed_with_a_warning() -> None:
    text = principal() + ISSUER + 'map = { tenant = "ns" }'

    assert parse_auth_file(text).warnings == (
        "principal 1 (a): has no tokens, x509 or jwt, so that it cannot log in",
        "principal 1 (a): has no grant, so that it may do nothing",
        "issuer 1 (k8s): map has no grant, so that those it maps may do nothing",
    )


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o640])
def test_a_file_that_only_its_owner_and_group_read_needs_no_warning(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "auth.toml"
    path.write_text(FULL)
    path.chmod(mode)

    assert load_auth_file(path).warnings == ()


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602, 0o777])
def test_a_file_that_others_may_read_or_write_has_a_warning(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "auth.toml"
    path.write_text(FULL)
    path.chmod(mode)

    (warning,) = load_auth_file(path).warnings
    assert warning == f"the file has mode 0{mode:o}, so that others may use it; chmod 600 keeps them out"


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "auth.toml"
    cases = [(path, "the file cannot be read: No such file or directory")]
    folder = tmp_path / "folder"
    folder.mkdir()
    cases.append((folder, "the file cannot be read: it is no regular file"))
    for name, content, problem in [
        ("latin", b"\xe9", "the file is not UTF-8, from byte 0 on"),
        ("large", b"#" * (MAX_FILE_BYTES + 1), f"the file is larger than {MAX_FILE_BYTES} bytes"),
        ("empty", b"", "the file: has neither a principal nor an issuer, so that nobody could log in"),
    ]:
        (tmp_path / name).write_bytes(content)
        cases.append((tmp_path / name, problem))
    for each, problem in cases:
        with pytest.raises(AuthFileRefused) as refused:
            load_auth_file(each)
        assert refused.value.problems == (problem,)
