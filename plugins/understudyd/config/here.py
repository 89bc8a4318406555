"""What a process needs of the estate: its group, its node, and whether this machine fits."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

from understudy.core.option_reader import nearest
from understudy.errors import ConfigurationError
from understudyd.config.model import EXEC_COMMANDS, Estate, Group, Node

__all__ = ["about", "check_api", "check_here", "select_group", "select_node"]

PATIENCE = 5.0  # s for a store to answer
ROOT = Path("/")  # where commands run that no folder is named for


def select_node(estate: Estate, address: str) -> tuple[Group, Node]:
    """``GROUP/NODE``. Raises ConfigurationError with the names there are."""
    name, slash, node = address.partition("/")
    if not slash:
        raise ConfigurationError(f'a node is named as GROUP/NODE, not "{address}"')
    group = select_group(estate, name)
    if node not in group.nodes:
        raise ConfigurationError(
            f"{estate.path}: groups.{name}.nodes has no {node!r} "
            f"(there are: {', '.join(group.nodes)}){nearest(node, group.nodes)}"
        )
    return group, group.nodes[node]


def select_group(estate: Estate, name: str | None) -> Group:
    """The group of that name; without a name the only one."""
    if not estate.groups:
        raise ConfigurationError(f"{estate.path}: has no group: write [groups.NAME]")
    if name is None and len(estate.groups) == 1:
        return next(iter(estate.groups.values()))
    if name is None or name not in estate.groups:
        what = "say which group" if name is None else f"groups has no {name!r}"
        raise ConfigurationError(
            f"{estate.path}: {what} (there are: {', '.join(estate.groups)})"
            f"{nearest(name or '', estate.groups)}"
        )
    return estate.groups[name]


@contextlib.contextmanager
def about(estate: Estate, key: str) -> Iterator[None]:
    """Says of a ConfigurationError which key of the file it is about."""
    try:
        yield
    except ConfigurationError as exc:
        raise ConfigurationError(f"{estate.path}: {key}: {exc}") from exc


def check_here(estate: Estate, group: Group, node: Node) -> None:
    """Raises ConfigurationError for what this machine lacks, before anything is started."""
    base = f"groups.{group.name}"
    scheme, _, path = group.lock.reveal().partition(":")
    if scheme == "file":
        with about(estate, f"{base}.lock"):
            _check_lock_file(Path(unquote(path)))
    with about(estate, f"{base}.store"):
        _check_stores(group.stores)
    broker, key = node.broker, f"{base}.nodes.{node.name}.broker"
    if broker.cwd is not None:
        with about(estate, f"{key}.cwd"):
            _check_folder(broker.cwd, "the broker's folder", writable=False)
    if broker.user is not None:
        with about(estate, f"{key}.user"):
            _check_user(broker.user)
    commands = {"command": broker.command, "health": broker.health.argv}
    for name in EXEC_COMMANDS:
        command = getattr(broker, name)
        commands[name] = command.argv if command else ()
    for name, argv in commands.items():
        with about(estate, f"{key}.{name}"):
            _check_program(argv, broker.env.get("PATH"), broker.cwd or ROOT)
    for name, hook in group.hooks.items():
        with about(estate, f"{base}.hooks.{name}"):
            _check_program(hook.argv, None, ROOT)
    check_api(estate)


def check_api(estate: Estate) -> None:
    """Raises ConfigurationError for what is wrong in the files of TLS."""
    api = estate.api
    for name in ("tls_cert", "tls_key"):
        path = getattr(api, name)
        with about(estate, f"api.{name}"):
            if path is not None:
                _check_file(path)
    if api.tls_cert is not None and api.tls_key is not None:
        with about(estate, "api.tls_cert"):
            _check_certificate(api.tls_cert, api.tls_key)


def _check_folder(folder: Path, what: str, *, writable: bool = True) -> None:
    if not folder.is_dir():
        raise ConfigurationError(f"{what} {folder} does not exist")
    if writable and not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigurationError(f"{what} {folder} is not writable for us")


def _check_stores(stores: tuple[Path, ...]) -> None:
    """More than half of them have to be here for a promotion; a dead mount counts as missing."""
    found: queue.SimpleQueue[tuple[Path, str]] = queue.SimpleQueue()
    for store in stores:
        threading.Thread(target=_look_at_store, args=(store, found.put), daemon=True).start()
    missing = {store: f"the store {store} does not answer" for store in stores}
    until = time.monotonic() + PATIENCE
    for _ in stores:
        try:
            store, trouble = found.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        if trouble:
            missing[store] = trouble
        else:
            missing.pop(store, None)
    if missing and 2 * len(missing) >= len(stores):
        raise ConfigurationError(next(iter(missing.values())))


def _look_at_store(store: Path, tell: Callable[[tuple[Path, str]], None]) -> None:
    try:
        _check_folder(store, "the store")
    except (ConfigurationError, OSError) as exc:
        tell((store, str(exc)))
    else:
        tell((store, ""))


def _check_lock_file(file: Path) -> None:
    _check_folder(file.parent, "the lock's folder")
    if file.is_dir():
        raise ConfigurationError(f"{file} is a folder; name a file in it")
    if file.exists() and not os.access(file, os.R_OK | os.W_OK):
        raise ConfigurationError(f"the lock {file} is not readable and writable for us")


def _check_file(file: Path) -> None:
    try:
        file.open("rb").close()
    except OSError as exc:
        raise ConfigurationError(f"{file} can't be read: {exc.strerror}") from None


def _check_certificate(certificate: Path, key: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # else it asks a terminal
    except ssl.SSLError:
        raise ConfigurationError(
            f"{certificate} and {key} are no certificate with its key, without a passphrase"
        ) from None


def _check_user(user: str) -> None:
    import pwd  # not on Windows, where the command line is of use too

    try:
        known = pwd.getpwnam(user)
    except KeyError:
        raise ConfigurationError(f"this machine has no user {user!r}") from None
    if os.geteuid() not in (0, known.pw_uid):
        raise ConfigurationError(f"only root can start a broker as {user!r}")


def _check_program(argv: tuple[str, ...], path: str | None, cwd: Path) -> None:
    if not argv:
        return
    has_path = "/" in argv[0]
    program = str(cwd / argv[0]) if has_path else argv[0]
    if shutil.which(program, path=path) is None:
        raise ConfigurationError(f"there is no program {program!r} to run")
