"""The operators' page has every metric of a server, and no other."""

import re
from pathlib import Path

from blockyard_server.rpc.auth.tokens import new_token
from tests.docs.page_runner import ROOT
from tests.harness.in_process import client_of, serving
from tests.rpc.test_metrics import fill, scrape
from tests.tls.authorities import Authorities

PAGE = (ROOT / "docs" / "how-to" / "operate.md").read_text(encoding="utf-8")
OF_LIBRARIES = ("process_", "python_gc_")


async def test_the_operators_page_names_every_metric_and_no_other(tmp_path: Path) -> None:
    tls = tmp_path / "tls"
    tls.mkdir()
    certificate = Authorities(tls).files.settings()
    auth_file = tls / "auth.toml"
    auth_file.touch(mode=0o600)
    auth_file.write_text(f'[[principal]]\nid = "a"\ntokens = [{new_token().toml()}]\n')
    async with (
        serving(tmp_path, ops_listen="127.0.0.1:0") as server,
        client_of(server) as client,
        serving(tls, ops_listen="127.0.0.1:0", auth_file=auth_file, **certificate) as with_tls,
    ):
        await fill(client)
        samples = {**await scrape(server), **await scrape(with_tls)}
    names = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name, _ in samples}

    assert set(re.findall(r"`(blockyard_\w+)`", PAGE)) == {each for each in names if not each.startswith(OF_LIBRARIES)}
    for prefix in OF_LIBRARIES:
        assert f"`{prefix}*`" in PAGE
        assert any(name.startswith(prefix) for name in names)
