"""Static tokens: their form, and that nothing but the whole of one is looked at."""

import re
from datetime import UTC, datetime
from hashlib import sha256

from blockyard_server.rpc.auth.auth_file import parse_auth_file
from blockyard_server.rpc.auth.tokens import _base62, digest, is_token, new_token


def test_a_token_has_its_prefix_its_id_and_256_random_bits() -> None:
    made = new_token()

    assert re.fullmatch(r"bkyd_[0-9a-z]{8}_[0-9A-Za-z]{43}", made.secret)
    assert made.secret.split("_")[1] == made.id
    assert is_token(made.secret)


def test_43_digits_are_enough_for_every_32_bytes_and_none_is_lost() -> None:
    assert _base62(bytes(32)) == "0" * 43
    assert _base62(b"\xff" * 32) == _base62((2**256 - 1).to_bytes(32))
    assert len({_base62(number.to_bytes(32)) for number in (0, 1, 61, 62, 2**128, 2**255, 2**256 - 1)}) == 7


def test_tokens_differ() -> None:
    assert len({new_token().secret for _ in range(100)}) == 100


def test_the_digest_is_of_the_whole_token() -> None:
    made = new_token()

    assert made.sha256 == sha256(made.secret.encode()).hexdigest() == digest(made.secret).hex()
    assert digest(made.secret[:-1]) != digest(made.secret)


def test_its_line_is_what_the_auth_file_takes() -> None:
    made = new_token()
    line = made.toml(datetime(2027, 1, 1, tzinfo=UTC))
    file = parse_auth_file(f'[[principal]]\nid = "sched-a"\ntokens = [{line}]\ngrant = []')

    (entry,) = file.principals[0].tokens
    assert (entry.id, entry.sha256) == (made.id, digest(made.secret))
    assert entry.not_after_s == datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    assert made.toml() == f'{{ id = "{made.id}", sha256 = "{made.sha256}" }}'


def test_a_token_that_is_shown_by_accident_tells_nothing() -> None:
    made = new_token()

    assert made.secret not in f"{made!r} {made}"
    assert made.secret not in made.toml()
