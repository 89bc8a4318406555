"""The command ``understudy uri``, run as a user runs it; it never shows a password."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["COMMAND", "SECRET", "environment", "probe", "run"]

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, "-c", "from understudyd.cli import main; main()"]
SECRET = "s3cret-Zq7"  # for URIs; seen nowhere


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("adapters", "plugins"))
    return {**os.environ, "PYTHONPATH": paths, **more}


def run(*arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, "uri", *arguments],
        input=stdin,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def probe(address: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code and the answer of each endpoint."""
    done = run(address, "--probe", "--json")
    return done.returncode, [one["probe"] for one in json.loads(done.stdout)["endpoints"]]
