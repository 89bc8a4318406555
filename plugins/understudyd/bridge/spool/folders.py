"""Where the spools of a bridge lie: a folder for each link, named after what it holds."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from pathlib import Path
from random import Random

from understudyd.bridge.names import Pattern
from understudyd.bridge.spool.disk import Folder
from understudyd.bridge.spool.glance import is_done
from understudyd.bridge.spool.shelf import Shelf
from understudyd.bridge.spool.store import SUFFIX, Store
from understudyd.bridge.spool.words import Spooling
from understudyd.bridge.usable import check_folder

__all__ = ["check_spool", "folder_of", "left_over", "shelf_of"]

LONGEST = 40  # characters of a destination


def check_spool(spooling: Spooling, bridge: str, patterns: Collection[Pattern], about: str) -> None:
    """See that all folders of a bridge can be had; raises ConfigurationError, which begins with
    ``about``."""
    check_folder(spooling.folder, about)
    for pattern in patterns:
        check_folder(folder_of(spooling, bridge, pattern), about)


def folder_of(spooling: Spooling, bridge: str, pattern: Pattern) -> Path:
    """Of one link; whatever brokers it joins, so that it is seen when these change."""
    said = re.sub(r"[^A-Za-z0-9._-]", "_", pattern.text)[:LONGEST]
    known = hashlib.sha256(pattern.text.encode()).hexdigest()[:8]
    return spooling.folder / f"{_prefix(spooling, bridge)}{said}-{known}"


def shelf_of(spooling: Spooling, bridge: str, pattern: Pattern, here: str, there: str) -> Shelf:
    """``here`` and ``there`` are what the two brokers are called."""
    path = folder_of(spooling, bridge, pattern)
    owner = {"bridge": bridge, "destination": pattern.text, "source": here, "target": there}
    folder = Folder(path, owner)
    return Shelf(folder, Store(folder, spooling.size, Random()), str(path))


def left_over(spooling: Spooling, bridge: str, patterns: Collection[Pattern]) -> list[Path]:
    """Folders with messages of this bridge that no link of it reads: what it forwards was
    changed."""
    read = {folder_of(spooling, bridge, pattern) for pattern in patterns}
    found = spooling.folder.glob(f"{_prefix(spooling, bridge)}*/*{SUFFIX}")
    return sorted(one for one in {segment.parent for segment in found} - read if not is_done(one))


def _prefix(spooling: Spooling, bridge: str) -> str:
    return f"{bridge}{'.back' if spooling.is_back else ''}~"
