"""A bridge process with its API, and the command ``understudy network`` that asks it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from understudy.testing.brokers import free_port
from understudyd.testing.bridged import PATIENCE, BridgeProcess, until

__all__ = ["COMMAND", "SECRET", "Operated"]

SECRET = "s3cret-Zq7"
COMMAND = [sys.executable, "-c", "from understudyd.cli import main; main()"]


class Operated(BridgeProcess):
    """`BridgeProcess` with ``[network] api`` and a token; its bridge is called ``test``."""

    def __init__(
        self, folder: Path, source: str, target: str, queue: str, **options: object
    ) -> None:
        super().__init__(folder, source, target, queue, **options)
        self.file = folder / "understudy.toml"
        self.state = folder / "state"
        self.state.mkdir(exist_ok=True)
        self.port = free_port()
        self.write(self.file.read_text(encoding="utf-8"))

    def write(self, bridges: str, token: str = SECRET) -> None:
        """The file anew, with these bridges."""
        tail = f'[network]\napi = "127.0.0.1:{self.port}"\nstate = "{self.state}"\n'
        tail += f'[api]\ntoken = "{token}"\n' if token else ""
        self.file.write_text(f"{bridges}\n{tail}", encoding="utf-8")

    def __enter__(self) -> Operated:
        self.start()
        return self

    def get(self, path: str) -> tuple[int, str]:
        return self._ask(urllib.request.Request(f"http://127.0.0.1:{self.port}{path}"))

    def post(self, path: str, token: str = SECRET) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {token}"}
        address = f"http://127.0.0.1:{self.port}{path}"
        return self._ask(urllib.request.Request(address, b"{}", headers, method="POST"))

    def _ask(self, request: urllib.request.Request) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                code, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            code, text = error.code, error.read().decode()
        assert SECRET not in text
        return code, text

    def bridge(self, name: str = "test") -> dict[str, Any]:
        """What `/status` says of it; empty: nothing."""
        try:
            _, text = self.get("/status")
        except OSError:  # not yet
            return {}
        told: list[dict[str, Any]] = json.loads(text)["bridges"]
        return next((one for one in told if one["name"] == name), {})

    def await_state(self, *states: str, name: str = "test") -> dict[str, Any]:
        def look() -> dict[str, Any]:
            told = self.bridge(name)
            return told if told and told["state"] in states else {}

        return until(look, f"state {states}")

    def reload(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def network(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """``understudy network`` with our file."""
        done = subprocess.run(
            [*COMMAND, "network", *words, "-c", str(self.file)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env={**os.environ, **environ},
        )
        assert SECRET not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done
