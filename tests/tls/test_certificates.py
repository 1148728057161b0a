"""A certificate in files: what is taken when they change, and what is not."""

import logging
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP521R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from blockyard_server.descriptors import open_now
from blockyard_server.rpc.tls import LOOK_INTERVAL_S, MAX_FILE_BYTES, CertificateFiles, CertificateRefused, Certificates
from tests.tls.authorities import Authorities, replace


class Clock:
    """Shows what it was told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Follower:
    """The certificates of a server, whose files are looked at when a test says so."""

    def __init__(self, authorities: Authorities) -> None:
        files = authorities.files
        self.clock = Clock()
        self.certificates = Certificates(
            CertificateFiles(files.certificate, files.key, files.client_ca), monotonic=self.clock
        )

    def look(self) -> None:
        """As at the next handshake, a second later."""
        self.clock.now_s += LOOK_INTERVAL_S
        self.certificates.look()

    @property
    def not_after(self) -> datetime:
        return datetime.fromtimestamp(self.certificates.not_after_s, UTC)


@pytest.fixture
def follower(authorities: Authorities) -> Follower:
    return Follower(authorities)


def in_days(days: int) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)


def test_new_files_are_taken_at_the_first_look_and_looks_are_a_second_apart(
    authorities: Authorities, follower: Follower
) -> None:
    new = in_days(7)
    authorities.renew(not_after=new)
    follower.clock.now_s += LOOK_INTERVAL_S * 0.99

    follower.certificates.look()
    before = follower.not_after
    follower.look()

    assert before != new
    assert follower.not_after == new
    assert follower.certificates.reload_failures == 0


def test_files_behind_links_that_are_swapped_are_taken(authorities: Authorities, tmp_path: Path) -> None:
    """As Kubernetes changes them: the paths stay the same links, and what is behind them is swapped."""
    files, data = authorities.files, tmp_path / "..data"
    ends = []
    for number in range(2):
        ends.append(in_days(7 + number))
        authorities.renew(not_after=ends[-1])
        folder = tmp_path / f"..{number}"
        folder.mkdir()
        shutil.copy(files.certificate, folder / "tls.crt")
        shutil.copy(files.key, folder / "tls.key")
    data.symlink_to(tmp_path / "..0")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(data / name)
    clock = Clock()
    certificates = Certificates(CertificateFiles(tmp_path / "tls.crt", tmp_path / "tls.key"), monotonic=clock)
    before_s = certificates.not_after_s

    (tmp_path / "next").symlink_to(tmp_path / "..1")
    os.replace(tmp_path / "next", data)  # noqa: PTH105 - the link itself, and not what it leads to
    clock.now_s += LOOK_INTERVAL_S
    certificates.look()

    assert [before_s, certificates.not_after_s] == [end.timestamp() for end in ends]


def a_password(authorities: Authorities) -> None:
    files = authorities.files
    key = load_pem_private_key(files.key.read_bytes(), None)
    replace(files.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")))


def a_key_of(key: Ed25519PrivateKey | None = None) -> Callable[[Authorities], None]:
    """A pair that fits, of a kind that no handshake succeeds with."""
    private = key or generate_private_key(SECP521R1())

    def put(authorities: Authorities) -> None:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
        certificate = (
            x509.CertificateBuilder(name, name, private.public_key(), 1, in_days(-1), in_days(1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(private, None if isinstance(private, Ed25519PrivateKey) else SHA256())
        )
        replace(authorities.files.certificate, certificate.public_bytes(Encoding.PEM))
        replace(authorities.files.key, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    return put


def another_key(authorities: Authorities) -> None:
    replace(authorities.files.key, trustme.CA().issue_cert("localhost").private_key_pem.bytes())


def a_folder(authorities: Authorities) -> None:
    authorities.files.key.unlink()
    authorities.files.key.mkdir()


def a_pipe(authorities: Authorities) -> None:
    authorities.files.key.unlink()
    os.mkfifo(authorities.files.key)


BROKEN: dict[str, tuple[Callable[[Authorities], object], str]] = {
    "another key": (another_key, "does not belong to the first certificate of "),
    "no certificate": (lambda its: replace(its.files.certificate, b"-----BEGIN"), "has no certificate in PEM"),
    "a part of one": (
        lambda its: replace(its.files.certificate, its.files.certificate.read_bytes()[:300]),
        "has no certificate in PEM",
    ),
    "empty": (lambda its: replace(its.files.key, b""), "has no private key in PEM"),
    "missing": (lambda its: its.files.certificate.unlink(), "server.pem cannot be read: No such file or directory"),
    "a folder": (a_folder, "server-key.pem cannot be read: Is a directory"),
    "a pipe": (a_pipe, "server-key.pem is not a file"),
    "too long": (lambda its: replace(its.files.key, b" " * (MAX_FILE_BYTES + 1)), "is longer than 1048576 bytes"),
    "a password": (a_password, "has a password"),
    "no authority": (lambda its: replace(its.files.client_ca, b"none"), "clients-ca.pem has no certificate in PEM"),
    "Ed25519": (a_key_of(Ed25519PrivateKey.generate()), "ECDSA P-256, ECDSA P-384, or RSA with 2048 bits or more"),
    "P-521": (a_key_of(), "ECDSA P-256, ECDSA P-384, or RSA with 2048 bits or more"),
}


@pytest.mark.parametrize(("break_", "why"), BROKEN.values(), ids=BROKEN)
def test_files_that_are_wrong_change_nothing_and_are_counted_once(
    break_: Callable[[Authorities], object],
    why: str,
    authorities: Authorities,
    follower: Follower,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before, new = follower.not_after, in_days(7)
    break_(authorities)
    opened = open_now()
    follower.look()
    counted = [follower.certificates.reload_failures]
    for _ in range(3):
        follower.look()
        counted.append(follower.certificates.reload_failures)

    assert open_now() == opened, "each look closes what it opens"
    assert counted == [0, 1, 1, 1], "at the first look the files may still be written"
    assert follower.not_after == before
    [line] = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert why in line
    assert line.startswith("the new certificate is not taken, the one before goes on: ")
    if authorities.files.key.is_dir():
        authorities.files.key.rmdir()
    replace(authorities.files.client_ca, authorities.clients.cert_pem.bytes())
    authorities.renew(not_after=new)
    follower.look()
    assert follower.not_after == new, "the next good files are taken"


@pytest.mark.parametrize(("break_", "why"), BROKEN.values(), ids=BROKEN)
def test_a_start_with_wrong_files_is_refused(
    break_: Callable[[Authorities], object], why: str, authorities: Authorities
) -> None:
    break_(authorities)

    with pytest.raises(CertificateRefused, match=why):
        Follower(authorities)


def test_a_pair_that_is_written_file_by_file_is_no_failure(authorities: Authorities, follower: Follower) -> None:
    files, new = authorities.files, in_days(7)
    key = files.key.read_bytes()
    authorities.renew(not_after=new)
    new_key = files.key.read_bytes()
    replace(files.key, key)
    follower.look()

    replace(files.key, new_key)
    follower.look()

    assert follower.not_after == new
    assert follower.certificates.reload_failures == 0


def test_each_new_kind_of_wrong_is_counted(authorities: Authorities, follower: Follower) -> None:
    for _ in range(2):
        another_key(authorities)
        follower.look()
        follower.look()

    assert follower.certificates.reload_failures == 2


def test_a_certificate_that_has_ended_is_served_and_told(
    authorities: Authorities, caplog: pytest.LogCaptureFixture
) -> None:
    """The server's clock may be the wrong one, and clients judge for themselves."""
    ended = in_days(-1)
    authorities.renew(not_before=in_days(-2), not_after=ended)

    assert Follower(authorities).not_after == ended
    assert "server.pem has ended at " in caplog.text


def test_a_key_that_everybody_can_read_is_told(authorities: Authorities, caplog: pytest.LogCaptureFixture) -> None:
    authorities.files.key.chmod(0o640)
    Follower(authorities)
    before = caplog.text
    authorities.files.key.chmod(0o644)
    Follower(authorities)

    assert "can read the private key" not in before
    assert "can read the private key" in caplog.text
