"""What a reload can't change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from understudy.errors import ConfigurationError
from understudyd.config.model import Group
from understudyd.sidecar.settings import Settings, check_reload
from understudyd.testing.groups import a_group


def settings(group: Group) -> Settings:
    estate = SimpleNamespace(path="understudy.toml")
    return cast("Settings", SimpleNamespace(estate=estate, group=group, node=group.nodes["a"]))


def test_a_rolling_change_of_the_stores_is_refused() -> None:
    """Of [1, 2, 3] and [3, 4, 5] two majorities may have no store in common."""
    one, *_ = paths = [Path(f"/store/{number}") for number in range(1, 6)]
    group = replace(a_group(), stores=tuple(paths[:3]))
    check_reload(settings(group), settings(group))
    for stores in ((), (one,), tuple(paths[2:])):
        with pytest.raises(ConfigurationError, match=r"groups\.g\.store can't be changed while"):
            check_reload(settings(group), settings(replace(group, stores=stores)))
