"""The image is built and run, on a base of Debian's packages: `make image-test`, as root. No registry is asked.

The public base of the Containerfile is not tested here.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
CONTAINERFILE: Final = ROOT / "deploy" / "container" / "Containerfile"
MISSING: Final = "not tested: needs root, buildah and mmdebstrap"
HERE: Final = os.geteuid() == 0 and all(shutil.which(program) for program in ("buildah", "mmdebstrap"))
BUILDAH: Final = ("buildah", "--storage-driver", "vfs")
DEBIAN: Final = ("python3", "python3-venv", "ca-certificates")

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900), pytest.mark.skipif(not HERE, reason=MISSING)]


def run(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A container of the image, with what `make image-context` makes for Debian's Python."""
    folder = tmp_path_factory.mktemp("image")
    base = Path(os.environ.get("BLOCKYARD_IMAGE_BASE", folder / "base.tar"))
    if not base.exists():
        run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(DEBIAN)}", "bookworm", base)
    scratch = run(*BUILDAH, "from", "scratch")
    run(*BUILDAH, "add", scratch, base, "/")
    run(*BUILDAH, "commit", "--rm", scratch, "localhost/blockyard-base")
    build = ("bud", "--isolation", "chroot", "--format", "docker", "--build-arg", "BASE=localhost/blockyard-base")
    run(*BUILDAH, *build, "-t", "localhost/blockyard", "-f", CONTAINERFILE, ROOT / "build" / "image")
    made = run(*BUILDAH, "from", "localhost/blockyard")
    yield made
    run(*BUILDAH, "rm", made)
    run(*BUILDAH, "rmi", "localhost/blockyard", "localhost/blockyard-base")


def inside(container: str, *command: str) -> tuple[str, ...]:
    return (*BUILDAH, "run", "--isolation", "chroot", container, "--", *command)


@contextmanager
def serving(container: str) -> Iterator[subprocess.Popen[str]]:
    """A server in the container, which does not outlive a test that fails."""
    command = inside(container, "blockyard", "serve", "--listen", "127.0.0.1:0")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as server:
        try:
            yield server
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)


def test_the_image_serves_as_a_user_without_rights_is_healthy_and_drains(container: str) -> None:
    with serving(container) as server:
        assert server.stdout
        lines = iter(server.stdout.readline, "")
        started = next((line for line in lines if "Serving on" in line), "")
        assert "/var/lib/blockyard/blockyard.db" in started
        assert run(*inside(container, "python3", "/opt/blockyard/health.py")) == "SERVING"
        admin = ("--address", "unix:/run/blockyard/admin.sock")
        run(*inside(container, "blockyard", "fleet", "create", "gpu", *admin))
        assert "gpu" in run(*inside(container, "blockyard", "fleet", "list", *admin))
        assert run(*inside(container, "id", "-u")) == "65532"
        assert run(*inside(container, "stat", "-c", "%a %u", "/var/lib/blockyard/blockyard.db")) == "600 65532"
        pid = run("pgrep", "--newest", "--uid", "65532", "--full", "bin/blockyard serve")
        os.kill(int(pid), signal.SIGTERM)
        rest = list(lines)
        assert server.wait(60) == 0, rest


def test_the_health_check_is_red_without_a_server(container: str) -> None:
    done = subprocess.run(
        inside(container, "python3", "/opt/blockyard/health.py"), capture_output=True, timeout=60, check=False
    )

    assert done.returncode == 1


def test_the_image_has_a_health_check_a_volume_and_no_pip(container: str) -> None:
    described = run(*BUILDAH, "inspect", "--type", "image", "localhost/blockyard")

    assert "/opt/blockyard/health.py" in described
    assert '"/var/lib/blockyard": {}' in described
    run(*inside(container, "sh", "-c", "! test -e /opt/blockyard/bin/pip"))
