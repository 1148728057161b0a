"""The parser of the auth file, with files that nobody would write: it takes a file as it is meant, or refuses it."""

import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockyard_server.domain.policy import Policy, Role
from blockyard_server.rpc.auth.auth_file import AuthFile, AuthFileRefused, parse_auth_file
from blockyard_server.rpc.auth.auth_file_rules import ALGORITHMS
from blockyard_server.rpc.auth.tokens import new_token

SECRET = new_token().secret

ids = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,6}[a-z0-9])?", fullmatch=True)
patterns = st.from_regex(r"\*|[a-z0-9]{1,4}-?\*?[a-z0-9]{1,3}|\*[a-z]|[a-z]\*", fullmatch=True)
roles = st.sampled_from([*Role])
instants = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)).map(lambda time: time.replace(tzinfo=UTC))  # noqa: DTZ001  # it gets its zone
grants = st.lists(
    st.fixed_dictionaries({"role": roles.map(str), "fleets": st.lists(patterns, min_size=1, max_size=3, unique=True)}),
    max_size=3,
)


_flag: st.SearchStrategy[bool] = st.booleans()


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """A file that is right, as a document."""
    issuers = draw(st.lists(ids, max_size=2, unique=True))
    principals = []
    for number, id_ in enumerate(draw(st.lists(ids, min_size=1, max_size=4, unique=True))):
        entry: dict[str, Any] = {"id": id_}
        if draw(_flag):
            entry["tenant"] = draw(ids)
        if draw(_flag):
            entry["tokens"] = [
                {"id": f"t{number}", "sha256": draw(st.binary(min_size=31, max_size=31)).hex() + f"{number:02}"}
            ]
            if draw(_flag):
                entry["tokens"][0]["not_after"] = draw(instants)
        if draw(_flag):
            entry["x509"] = [f"spiffe://corp.example/{number}/*", f"host-{number}"]
        if draw(_flag) and issuers:
            entry["jwt"] = [{"issuer": draw(st.sampled_from(issuers)), "sub": f"s{number}"}]
        if draw(_flag):
            entry["grant"] = draw(grants)
        if draw(_flag):
            entry["weight"] = draw(st.integers(1, 20))
        if draw(_flag):
            entry["limits"] = {
                "units_per_s": draw(st.floats(0, 1e9) | st.integers(0, 10**9)),
                "watches": draw(st.integers(0, 9)),
            }
        principals.append(entry)
    return {
        "principal": principals,
        "issuer": [
            {
                "name": name,
                "iss": f"https://{number}.example",
                "audience": "blockyard",
                "jwks": draw(st.sampled_from(["https://x.example/jwks", "file:///etc/jwks.json"])),
                "algorithms": draw(st.lists(st.sampled_from([*ALGORITHMS]), min_size=1, max_size=3, unique=True)),
                "map": {"tenant": "a/b", "grant": draw(grants)},
            }
            for number, name in enumerate(issuers)
        ],
    }


def toml(document: dict[str, Any]) -> str:
    """The document as TOML."""
    return "".join(
        f"[[{kind}]]\n" + "".join(f"{json.dumps(key)} = {value(entry[key])}\n" for key in entry)
        for kind, entries in document.items()
        for entry in entries
    )


def value(thing: object) -> str:
    match thing:
        case datetime():
            return thing.isoformat()
        case dict():
            return "{ " + ", ".join(f"{json.dumps(key)} = {value(each)}" for key, each in thing.items()) + " }"
        case list():
            return f"[{', '.join(map(value, thing))}]"
        case _:
            return json.dumps(thing)


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a document: what it is in, and under which key or at which index."""
    for key in list(document) if isinstance(document, dict) else range(len(document)):
        yield document, key
        if isinstance(document[key], dict | list):
            yield from places(document[key])


def parsed(text: str) -> AuthFile | tuple[str, ...]:
    """The file, or what is wrong with it."""
    try:
        return parse_auth_file(text)
    except AuthFileRefused as refused:
        return refused.problems


@settings(max_examples=150, deadline=None)
@given(document=files())
def test_a_file_that_is_right_is_taken_as_it_is_meant(document: dict[str, Any]) -> None:
    file = parsed(toml(document))

    assert isinstance(file, AuthFile)
    for entry, found in zip(document["principal"], file.principals, strict=True):
        assert (found.id, found.tenant) == (entry["id"], entry.get("tenant", entry["id"]))
        assert [token.sha256.hex() for token in found.tokens] == [each["sha256"] for each in entry.get("tokens", [])]
        assert [token.not_after_s for token in found.tokens] == [
            each["not_after"].timestamp() if "not_after" in each else None for each in entry.get("tokens", [])
        ]
        assert [(str(grant.role), list(grant.fleets)) for grant in found.grants] == [
            (each["role"], each["fleets"]) for each in entry.get("grant", [])
        ]
        assert found.weight == entry.get("weight", 1)
        if not entry.get("grant"):
            assert not Policy(found.grants).on("any")
    assert [issuer.name for issuer in file.issuers] == [entry["name"] for entry in document["issuer"]]


@settings(max_examples=150, deadline=None)
@given(document=files(), data=st.data())
def test_a_key_that_is_not_known_is_refused_wherever_it_stands(document: dict[str, Any], data: st.DataObject) -> None:
    tables = [where[key] for where, key in places(document) if isinstance(where[key], dict)]
    data.draw(st.sampled_from(tables))["bogus"] = data.draw(st.sampled_from([1, "x", [], {}]))
    problems = parsed(toml(document))

    assert isinstance(problems, tuple)
    assert any("unknown key 'bogus'" in problem for problem in problems)


_WRONG: st.SearchStrategy[Any] = st.sampled_from(
    [None, -1, 0, 10**12, 1.5, True, "", "*", "x y", "é", "\u202e", "HS256", "none", "?", [], [[]], {}, [{}], SECRET]
).map(copy.deepcopy)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(document=files(), data=st.data())
def test_a_file_with_changed_values_is_taken_or_refused_and_tells_no_token(
    document: dict[str, Any], data: st.DataObject
) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        entry = data.draw(st.sampled_from([*document["principal"], *document["issuer"]]))
        there = [*places(entry)]
        if there:
            where, key = data.draw(st.sampled_from(there))
            change = data.draw(_WRONG)
            if change is None:
                del where[key]
            else:
                where[key] = change
    found = parsed(toml(document))
    if isinstance(found, tuple):
        assert found
        assert not [problem for problem in found if SECRET[:14] in problem or not problem.isprintable()]
    else:
        for principal in found.principals:
            assert 1 <= principal.weight <= 20
            assert all(grant.role in set(Role) and grant.fleets for grant in principal.grants)
            assert all(len(token.sha256) == 32 for token in principal.tokens)
        for issuer in found.issuers:
            assert issuer.algorithms
            assert set(issuer.algorithms) <= set(ALGORITHMS)
            assert issuer.jwks.startswith(("https://", "file:///"))


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=200) | st.text(alphabet="[]{}=\"\\n.#abc0123-:TZ '", max_size=200))
def test_any_text_is_taken_or_refused(text: str) -> None:
    found = parsed(text)

    assert not isinstance(found, tuple) or found


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(document=files(), length=st.integers(0, 400))
def test_a_file_that_ends_too_soon_never_grants_more(document: dict[str, Any], length: int) -> None:
    text = toml(document)
    whole, part = parsed(text), parsed(text[:length])
    assert isinstance(whole, AuthFile)
    if isinstance(part, tuple):
        return
    known = {principal.id: principal for principal in whole.principals}
    *before, cut = part.principals or [None]
    assert [known[each.id] for each in before if each] == before
    if cut is not None:
        # It may have lost keys, or the end of its id; what it has left is a part of what it had.
        assert set(cut.grants) <= (set(known[cut.id].grants) if cut.id in known else set())
