"""The table of scenarios has no blank: each one runs on each adapter, or says why it does not."""

from __future__ import annotations

import re
from pathlib import Path

from understudy.testing.scenarios.table import CATALOGUE, COLUMNS, NOT_APPLICABLE

HERE = Path(__file__).parent


def named_in(*files: Path) -> set[str]:
    texts = (file.read_text(encoding="utf-8") for file in files)
    marks = (mark for text in texts for mark in re.findall(r"mark\.scenario\((.*)\)", text))
    return {found for mark in marks for found in re.findall(r"[FD]\d\d", mark)}


def test_every_scenario_runs_or_says_why_not() -> None:
    """For each adapter: a test that names the scenario, or a reason."""
    in_core = named_in(HERE / "test_core.py")
    on_adapters = named_in(*HERE.glob("test_*.py")) - in_core
    undecided = [
        (scenario, column)
        for scenario in CATALOGUE
        for column in COLUMNS[1:]
        if (scenario not in on_adapters) and (scenario, column) not in NOT_APPLICABLE
    ]
    assert not undecided
    assert in_core | on_adapters <= set(CATALOGUE)


def test_no_reason_is_left_over() -> None:
    """A reason names a scenario and a column that exist."""
    assert {scenario for scenario, _ in NOT_APPLICABLE} <= set(CATALOGUE)
    assert {column for _, column in NOT_APPLICABLE} <= set(COLUMNS)
