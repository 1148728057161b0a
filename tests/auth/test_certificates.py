"""By which of its names a certificate is known, and by which it never is."""

import pytest

from blockyard_server.rpc.auth.authenticator import Certificate, Unauthenticated
from blockyard_server.rpc.auth.certificates import (
    MAX_NAME_LENGTH,
    MAX_NAMES,
    NamedOwners,
    names_in,
    problem_of_pattern,
    proof_by,
)

SPIFFE = b"spiffe://corp.example/ns/train/sa/scheduler"


@pytest.mark.parametrize(
    ("certificate", "names"),
    [
        ({}, ()),
        ({"x509_common_name": [b"root"], "x509_subject": [b"CN=root"]}, ()),
        ({"peer_spiffe_id": [SPIFFE], "peer_uri": [SPIFFE], "peer_dns": [b"host"]}, (SPIFFE.decode(),)),
        ({"peer_uri": [b"https://a/x", b"urn://b"], "peer_dns": [b"host"]}, ("https://a/x", "urn://b")),
        ({"peer_dns": [b"Host.Example", b"*.example", b"host"]}, ("host.example", "host")),
        ({"peer_dns": ["hôst".encode()]}, ()),
    ],
)
def test_the_spiffe_id_counts_else_the_uris_else_the_dns_names(
    certificate: Certificate, names: tuple[str, ...]
) -> None:
    assert names_in(certificate) == names


@pytest.mark.parametrize(
    ("certificate", "hint"),
    [
        ({"peer_spiffe_id": [SPIFFE, b"spiffe://corp.example/other"]}, "ambiguous"),
        # gRPC names no SPIFFE id if there are two of them.
        ({"peer_uri": [SPIFFE, b"spiffe://corp.example/other"]}, "ambiguous"),
        ({"peer_uri": [b"https://a/x", SPIFFE]}, "ambiguous"),
        ({"peer_dns": [b"host"] * (MAX_NAMES + 1)}, "malformed"),
        ({"peer_dns": [b"h" * (MAX_NAME_LENGTH + 1)]}, "malformed"),
        ({"peer_uri": [b"https://a/\n"]}, "malformed"),
    ],
)
def test_a_certificate_that_cannot_be_understood_is_refused(certificate: Certificate, hint: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        names_in(certificate)

    assert (refused.value.scheme, refused.value.hint) == ("certificate", hint)


@pytest.mark.parametrize(
    "pattern",
    [
        "spiffe://corp.example/ns/train/sa/scheduler",
        "spiffe://corp.example/ns/train/sa/*",
        "spiffe://corp.example/ns/train/sa/sched-*-x",
        "https://corp.example/x",
        "spiffe://corp.example",
        "host",
        "host-1.train.svc.cluster.local",
    ],
)
def test_a_name_may_be_a_uri_or_a_dns_name(pattern: str) -> None:
    assert problem_of_pattern(pattern) is None


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "*",
        "*.example",
        "host.*",
        "Host",
        "-host",
        "a..b",
        "spiffe://*",
        "spiffe://*/x",
        "spiffe://corp.example/*/sa",
        "spiffe://corp.example/**",
        "spiffe://corp.example/a*b*",
        "spiffe://corp.example/",
        "spiffe://corp.example//x",
        "spiffe:///x",
        "spiffe://corp.example/ x",
        "spiffe://corp.example/é",
        "://x",
        "h" * (MAX_NAME_LENGTH + 1),
    ],
)
def test_a_name_that_would_let_in_others_or_nobody_is_refused(pattern: str) -> None:
    assert problem_of_pattern(pattern)


def test_a_star_stands_for_one_or_more_characters_of_one_segment() -> None:
    owners = NamedOwners({"spiffe://a/sa/*": "any", "spiffe://a/sa/root": "root", "spiffe://a.b/x": "other"})

    assert owners.owner_of(["spiffe://a/sa/x"]) == ("spiffe://a/sa/x", "any")
    assert owners.owner_of(["spiffe://a/sa/root"]) == ("spiffe://a/sa/root", "root")
    for name in ("spiffe://a/sa/", "spiffe://a/sa", "spiffe://a/sa/x/y", "xspiffe://a/sa/x"):
        assert owners.owner_of([name]) is None, name
    assert owners.owner_of(["spiffe://aXb/x"]) is None  # a dot is a dot
    assert owners.owner_of([]) is None


def test_a_certificate_with_the_names_of_two_principals_is_refused() -> None:
    first, second = object(), object()
    owners = NamedOwners(
        {"host-a": first, "host-b": second, "alias-a": first, "spiffe://a/*": first, "spiffe://a/x*": second}
    )

    assert owners.owner_of(["alias-a", "host-a", "unknown"]) == ("alias-a", first)
    for names in (["host-a", "host-b"], ["spiffe://a/x1"]):
        with pytest.raises(Unauthenticated, match="ambiguous"):
            owners.owner_of(names)


def test_the_journal_tells_a_dns_name_from_others() -> None:
    assert proof_by("host") == "dns:host"
    assert proof_by(SPIFFE.decode()) == SPIFFE.decode()
