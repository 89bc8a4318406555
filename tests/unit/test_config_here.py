"""One process's part of the configuration, and what it needs of its machine."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from understudy.errors import ConfigurationError
from understudyd.config import check_here, here, select_group, select_node
from understudyd.testing.configured import FILE, read


def test_selects_group_and_node(tmp_path: Path) -> None:
    estate = read(tmp_path)
    group, node = select_node(estate, "orders/b")
    assert (group.name, node.name) == ("orders", "b")
    assert select_group(estate, None) is group
    for address, message in {
        "orders": "a node is named as GROUP/NODE",
        "ordres/a": "did you mean orders?",
        "orders/c": r"has no 'c' \(there are: a, b\)",
    }.items():
        with pytest.raises(ConfigurationError, match=message):
            select_node(estate, address)


def test_checks_what_a_node_needs_of_its_machine(tmp_path: Path) -> None:
    lock = FILE.replace("redis://:hush@10.0.0.9:6379/0", "file:shared/orders.lock")
    text = lock.replace('["rabbitmq-server"]', '["sleep"]')
    estate = read(tmp_path, text)
    with pytest.raises(ConfigurationError, match=r"orders\.lock: the lock's folder .* not exist"):
        check_here(estate, *select_node(estate, "orders/a"))
    (tmp_path / "shared").mkdir()
    with pytest.raises(ConfigurationError, match=r"groups\.orders\.store: the store .* not exist"):
        check_here(estate, *select_node(estate, "orders/a"))
    (tmp_path / "data").mkdir()
    (tmp_path / "shared/orders.lock").mkdir()
    with pytest.raises(ConfigurationError, match=r"orders\.lock is a folder; name a file in it"):
        check_here(estate, *select_node(estate, "orders/a"))
    (tmp_path / "shared/orders.lock").rmdir()
    check_here(estate, *select_node(estate, "orders/a"))
    with_tls = text.replace('token = "hush"', 'tls_cert = "c.pem"\ntls_key = "k.pem"')
    with pytest.raises(
        ConfigurationError, match=r"api\.tls_cert: .*/c\.pem can't be read: No such"
    ):
        check_here(read(tmp_path, with_tls), *select_node(estate, "orders/a"))
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).write_text("no certificate")
    with pytest.raises(ConfigurationError, match=r"api\.tls_cert: .* no certificate with its key"):
        check_here(read(tmp_path, with_tls), *select_node(estate, "orders/a"))
    estate = read(tmp_path, text.replace('["sleep"]', '["no-such-broker"]'))
    with pytest.raises(ConfigurationError, match=r"a\.broker\.command: there is no program 'no-su"):
        check_here(estate, *select_node(estate, "orders/a"))


def test_more_than_half_of_the_stores_have_to_be_here(tmp_path: Path) -> None:
    text = FILE.replace('"data"', '["d1", "d2", "d3"]').replace('["rabbitmq-server"]', '["sleep"]')
    estate = read(tmp_path, text)
    assert estate.groups["orders"].stores == tuple(tmp_path / name for name in ("d1", "d2", "d3"))
    (tmp_path / "d2").mkdir()
    with pytest.raises(ConfigurationError, match=r"orders\.store: the store .*/d1 does not exist"):
        check_here(estate, *select_node(estate, "orders/a"))
    (tmp_path / "d3").mkdir()
    check_here(estate, *select_node(estate, "orders/a"))
    stores = read(tmp_path, text, UNDERSTUDY_GROUPS__ORDERS__STORE="/x, /y").groups["orders"].stores
    assert stores == (Path("/x"), Path("/y"))


def test_a_store_that_does_not_answer_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    text = FILE.replace('"data"', '["d1", "d2", "d3"]').replace('["rabbitmq-server"]', '["sleep"]')
    for name in ("d2", "d3"):
        (tmp_path / name).mkdir()
    check_folder = here._check_folder

    def look(folder: Path, what: str, **options: bool) -> None:
        if folder.name == "d1":
            gate.wait(30)
        check_folder(folder, what, **options)

    monkeypatch.setattr(here, "_check_folder", look)
    monkeypatch.setattr(here, "PATIENCE", 0.2)
    estate = read(tmp_path, text)
    check_here(estate, *select_node(estate, "orders/a"))
    (tmp_path / "d2").rmdir()
    with pytest.raises(ConfigurationError, match=r"orders\.store: the store"):
        check_here(estate, *select_node(estate, "orders/a"))
    gate.set()


def test_a_program_is_looked_for_where_it_will_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the broker's folder, a hook in /: not where the sidecar was started."""

    def check(text: str) -> None:
        estate = read(tmp_path, text)
        check_here(estate, *select_node(estate, "orders/a"))

    for folder in (tmp_path, tmp_path / "data"):
        folder.mkdir(exist_ok=True)
        (folder / "run").write_text("#!/bin/sh\n")
        (folder / "run").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    text = FILE.replace('["rabbitmq-server"]', '"./run"')
    with pytest.raises(ConfigurationError, match=r"a\.broker\.command: there is no program '/run'"):
        check(text)
    text = text.replace('"./run"', '"./run"\ncwd = "data"')
    check(text)
    text = text.replace('store  = "data"', 'hooks = { pre_promote = "./run" }')
    with pytest.raises(ConfigurationError, match=r"hooks\.pre_promote: there is no program '/run'"):
        check(text)
