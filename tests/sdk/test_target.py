"""What a target names: one server as it always was, or several, whose names are looked up."""

import os
from collections.abc import Sequence
from ipaddress import ip_address

import pytest

from blockyard import AsyncClient, BlockyardError, Client, InvalidTarget
from blockyard._channel import OPTIONS, connection
from blockyard._target import MAX_SERVERS, Address, Target, decode_servers, decode_target

NAMES = {
    "one": ["10.0.0.1"],
    "two": ["10.0.0.2", "fd00::2"],
    "six": ["fd00::6"],
    "both": ["10.0.0.7", "10.0.0.8"],
}


def lookup(host: str) -> Sequence[Address]:
    if host not in NAMES:
        raise OSError(-2, "Name or service not known")
    return [ip_address(address) for address in NAMES[host]]


@pytest.mark.parametrize("text", ["127.0.0.1:7350", "[::1]:7350", "blockyard.example:7350", "unix:/run/b.sock", "here"])
def test_one_server_goes_to_grpc_as_it_is(text: str) -> None:
    assert decode_target(text) == Target(text, several=False)
    assert connection(text).options == OPTIONS


@pytest.mark.parametrize("text", ["dns:///blockyard.example:7350", "ipv4:10.0.0.1:7350,10.0.0.2:7350"])
def test_what_is_written_in_grpcs_own_way_may_be_several(text: str) -> None:
    assert decode_target(text) == Target(text, several=True)


def test_one_server_keeps_the_environments_proxy_and_a_list_does_not() -> None:
    assert "grpc.enable_http_proxy" not in dict(connection("127.0.0.1:1").options)
    assert dict(connection("127.0.0.1:1,127.0.0.1:2").options)["grpc.enable_http_proxy"] == 0


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("one:7350,both:7351", "ipv4:10.0.0.1:7350,10.0.0.7:7351,10.0.0.8:7351"),
        ("one:7350,two:7350", "ipv4:10.0.0.1:7350,10.0.0.2:7350"),
        ("six:1,two:2", "ipv6:[fd00::6]:1,[::ffff:10.0.0.2]:2,[fd00::2]:2"),
        ("one:1,six:2", "ipv6:[::ffff:10.0.0.1]:1,[fd00::6]:2"),
        (" one:1 , one:1,one:2", "ipv4:10.0.0.1:1,10.0.0.1:2"),
        ("gone:1,one:2", "ipv4:10.0.0.1:2"),
    ],
)
def test_the_names_of_a_list_are_looked_up(text: str, name: str) -> None:
    target = decode_target(text, lookup)
    assert (target.name, target.several) == (name, True)


def test_addresses_in_a_list_need_no_look_up() -> None:
    target = decode_target("10.0.0.1:1,[fd00::6]:2")
    assert target == Target("ipv6:[::ffff:10.0.0.1]:1,[fd00::6]:2", several=True, authority="10.0.0.1:1")


def test_certificates_are_checked_against_the_first_name() -> None:
    assert dict(connection("localhost:1,127.0.0.1:2").options)["grpc.default_authority"] == "localhost:1"
    assert decode_target("[::1]:1,one:2", lambda _: [ip_address("::1")]).authority == "[::1]:1"


def test_a_name_without_an_address_is_left_out_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    decode_target("gone:1,one:2", lookup)
    assert [record.getMessage() for record in caplog.records] == [
        "a server of the target is left out: gone: Name or service not known"
    ]


def test_a_list_without_any_address_is_an_error_that_says_why() -> None:
    with pytest.raises(InvalidTarget, match=r"^no server of the target has an address \(gone: Name .*; lost: Name "):
        decode_target("gone:1,lost:2", lookup)


@pytest.mark.parametrize("entry", ["", "two", "two:", "two:99999", "http://two:1", "::1:7350", "two:1:2"])
def test_a_malformed_entry_is_named(entry: str) -> None:
    text = f"one:7350,{entry}"
    with pytest.raises(InvalidTarget) as e:
        decode_target(text, lookup)
    assert str(e.value) == f"{entry!r} in {text!r} is not an address of the form HOST:PORT"


def test_a_list_is_bounded() -> None:
    entries = [f"10.0.0.1:{port}" for port in range(1, MAX_SERVERS + 2)]
    assert len(decode_servers(",".join(entries[:-1]))) == MAX_SERVERS
    with pytest.raises(InvalidTarget, match="names 65 servers; at most 64 are allowed"):
        decode_target(",".join(entries))


async def test_both_clients_refuse_a_list_that_names_no_server() -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidTarget):
            kind("one,two")
    assert issubclass(InvalidTarget, ValueError)
    assert issubclass(InvalidTarget, BlockyardError)


async def test_the_environment_may_name_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "BLOCKYARD_ADDRESS", "127.0.0.1:1,127.0.0.1:2")
    assert connection(None).target == "ipv4:127.0.0.1:1,127.0.0.1:2"
