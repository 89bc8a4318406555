"""Folders that cannot be had are refused before anything is started, with what to do."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest

from understudy import ConfigurationError
from understudyd.bridge import usable
from understudyd.bridge.names import Pattern
from understudyd.bridge.run import run
from understudyd.bridge.spool.folders import check_spool, folder_of
from understudyd.bridge.spool.words import Spooling
from understudyd.bridge.usable import check_folder


def test_a_folder_is_made_for_us_alone_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    check_folder(path, "x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    (path / "kept").touch()
    check_folder(path, "x")
    assert os.listdir(path) == ["kept"]


@pytest.mark.parametrize("place", ["file", "file/in/it"])
def test_a_file_in_the_way_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError) as caught:
        check_folder(tmp_path / place, "spool = 'x'")
    told = f"spool = 'x': {tmp_path / 'file'} is a file, and no folder; remove it, or name another"
    assert str(caught.value).startswith(told)


def test_what_cannot_be_made_is_told_with_who_is_to_write_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none/dedup cannot be made: No such file .* let"):
        check_folder(tmp_path / "none" / "dedup", "x", parents=False)


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refused(**_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(usable, "TemporaryFile", refused)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_folder_of_others_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse(monkeypatch, number)
    with pytest.raises(ConfigurationError, match=f"cannot be written to: {os.strerror(number)}; "):
        check_folder(tmp_path, "x")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_what_a_disk_may_get_over_is_no_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A spool on a full disk is to be emptied."""
    refuse(monkeypatch, number)
    check_folder(tmp_path, "x")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_user_who_may_not_write_there_is_told() -> None:
    with tempfile.TemporaryDirectory() as parent:  # others cannot look into pytest's folders
        path = Path(parent)
        path.chmod(0o755)
        (path / "mine").mkdir(mode=0o755)
        os.seteuid(65534)
        try:
            for place in ("mine", "new"):
                with pytest.raises(ConfigurationError, match=r"Permission .*number 65534"):
                    check_folder(path / place, "x")
        finally:
            os.seteuid(0)


def test_each_folder_of_a_spool_is_looked_at(tmp_path: Path) -> None:
    spooling, pattern = Spooling(tmp_path, 1 << 20), Pattern.parse("queue://a")
    check_spool(spooling, "b", [pattern], "x")
    folder = folder_of(spooling, "b", pattern)
    folder.rmdir()
    folder.touch()
    with pytest.raises(ConfigurationError, match=rf"{folder.name} is a file"):
        check_spool(spooling, "b", [pattern], "x")


@pytest.mark.parametrize(
    ("option", "place"), [("spool = 'kept'", "kept"), ("dedup = 'journal'", "state/dedup")]
)
def test_a_bridge_without_its_folder_is_not_started(
    tmp_path: Path, option: str, place: str
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / place).touch()
    file = tmp_path / "understudy.toml"
    file.write_text(f"""
        [network]
        state = "state"
        [bridges.orders]
        source = "amqp://a"
        target = "amqp://b"
        statically_included = ["queue://orders"]
        {option}
    """)
    told = rf"understudy.toml: bridges.orders: {option.split()[0]} = .*{place} is a file"
    with pytest.raises(ConfigurationError, match=told):
        run(file, [])
