"""`understudy.toml` in, an `Estate` out; or a ConfigurationError that says what is valid."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote, unquote

from understudy import parse
from understudy.core.option_reader import nearest
from understudy.errors import ConfigurationError
from understudyd.config import values
from understudyd.config.model import (
    DRIVER_GROUP,
    DRIVERS,
    EXEC_COMMANDS,
    HEALTH_KINDS,
    HOOKS,
    Api,
    BrokerConfig,
    Command,
    Estate,
    Group,
    Health,
    Node,
    Place,
    Secret,
)
from understudyd.config.table import Source, Table
from understudyd.config.values import Bad
from understudyd.lock.timings import PRESETS, Timings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["build", "load", "read_toml"]

T = TypeVar("T")
_Way: TypeAlias = tuple[str, str, tuple[str, ...]]  # kind, url and argv of a health check

LARGEST = 1024 * 1024  # bytes of a file; an estate of a thousand nodes is half of that
DRIVERS_TO_COME = ("systemd", "none")
SHORTEST = 0.1  # s, of a health check: what asks a broker more often is a load of its own
HEALTH_OF = {"amqp": "amqp", "amqps": "amqp", "stomp": "stomp", "stomp+ssl": "stomp"}


def load(path: str | Path, environ: Mapping[str, str], content: bytes | None = None) -> Estate:
    """``content``: what is in the file; None: to be read. Raises ConfigurationError. Sections of
    the bridges are left alone."""
    file = Path(path).absolute()
    return build(file, read_toml(file) if content is None else _parsed(file, content), environ)


def build(file: Path, data: dict[str, Any], environ: Mapping[str, str]) -> Estate:
    """From what stands in the file. Raises ConfigurationError."""
    source = Source(file, environ)
    root = Table(source, (), data)
    root.skip("bridges")
    root.skip("network")
    tables, api_table = root.tables("groups"), root.table("api")
    root.finish()  # before a key is missed that stands in a table of a wrong name
    groups = {name: _group(name, table) for name, table in tables.items()}
    api = _api(api_table)
    source.check_variables()
    _check_apart(source, groups)
    return Estate(file.absolute(), groups, api)


def read_toml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            data = stream.read(LARGEST + 1)
    except OSError as exc:
        raise ConfigurationError(f"{file}: can't be read: {exc.strerror}") from None
    return _parsed(file, data)


def _parsed(file: Path, data: bytes) -> dict[str, Any]:
    if len(data) > LARGEST:
        raise ConfigurationError(f"{file}: is larger than {LARGEST} bytes, so no configuration")
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as exc:
        why = "it is no UTF-8" if isinstance(exc, UnicodeDecodeError) else str(exc)
        if "Invalid value" in why:
            why += "; texts stand in quotes, true and false in small letters"
        raise ConfigurationError(f"{file}: is no valid TOML: {why}") from None


def _group(name: str, table: Table) -> Group:
    lock = table.secret("lock", values.lock)
    lock = _with_whole_path(lock, table)
    timings = _timings(table)
    stores: tuple[Path, ...] = table.take("store", _stores(table), ())
    hooks = _hooks(table.table("hooks"))
    nodes = {key: _node(key, inner, timings) for key, inner in table.tables("nodes").items()}
    if not nodes:
        table.refuse(("nodes",), None, f"are missing: write [groups.{name}.nodes.NAME]")
    table.finish()
    return Group(name, lock, timings, nodes, stores, hooks)


def _stores(table: Table) -> Callable[[object], tuple[Path, ...]]:
    """One folder or several; in a variable, separated by commas."""
    several = values.several(table.file_path)

    def read(value: object) -> tuple[Path, ...]:
        is_list = isinstance(value, (list, values.Said))
        stores = several(value) if is_list else (table.file_path(value),)
        if not stores or len(set(stores)) < len(stores):
            raise Bad("must name a folder, or several different ones")
        return stores

    return read


def _with_whole_path(lock: Secret, table: Table) -> Secret:
    """A relative file: starts at the configuration's folder."""
    scheme, _, rest = lock.reveal().partition(":")
    if scheme == "memory":
        why = "is seen by one process alone, so every node would be master; use file: or redis:"
        table.refuse(("lock",), str(lock), why)
    if scheme != "file":
        return lock
    if rest.startswith("//"):
        host, _, rest = rest[2:].partition("/")
        rest = f"/{rest}"
        if host not in ("", "localhost"):
            table.refuse(("lock",), str(lock), "must be a path of this machine: file:/path")
    if not rest or rest.endswith("/"):
        table.refuse(("lock",), str(lock), "must name a file: file:/mnt/shared/orders.lock")
    address = f"file:{quote(str(table.file_path(unquote(rest))))}"
    return Secret(address, address)


def _timings(table: Table) -> Timings:
    preset = table.take("preset", values.choice(PRESETS, "preset"), None)
    inner = table.table("timings")
    names = ("lease", "renew", "attempt", "kill", "margin")
    if not any(name in inner for name in names):
        inner.finish()
        return PRESETS[preset or "normal"]
    if preset is not None:
        table.refuse(("timings",), None, "stand in place of preset; leave one of them out")
    default = {"margin": Timings.margin}
    given = {
        name: inner.take(name, values.duration, *[default[name]] if name in default else [])
        for name in names
    }
    inner.finish()
    try:
        return Timings(**given)
    except ConfigurationError as exc:
        table.refuse(("timings",), None, f"can't be used: {exc}")


def _hooks(table: Table) -> dict[str, Command]:
    hooks = {name: _command(table, name) for name in HOOKS}
    table.finish()
    return {name: command for name, command in hooks.items() if command is not None}


def _command(table: Table, name: str, limit: float = Command.timeout) -> Command | None:
    argv = table.take(name, values.argv, None)
    timeout = table.take(f"{name}_timeout", values.duration, limit)
    return None if argv is None else Command(argv, timeout)


def _node(name: str, table: Table, timings: Timings) -> Node:
    uri = table.secret("uri", values.uri)
    api = table.take("api", values.place)
    node = Node(
        name=name,
        uri=uri,
        api=api,
        listen=table.take("listen", values.place, api),
        weight=table.take("weight", values.whole(0, 1000), Node.weight),
        nofailover=table.take("nofailover", values.flag, Node.nofailover),
        broker=_broker(table.table("broker"), uri, timings),
    )
    table.finish()
    return node


def _broker(table: Table, uri: Secret, timings: Timings) -> BrokerConfig:
    driver = table.take("driver", _driver, "process")
    common: dict[str, Any] = {
        "health": _health(table, uri),
        "stop_timeout": table.take("stop_timeout", values.duration, BrokerConfig.stop_timeout),
        "start_timeout": table.take("start_timeout", values.duration, BrokerConfig.start_timeout),
        "local_restarts": table.take("local_restarts", values.whole(0, 100), 0),
        "cwd": table.take("cwd", table.file_path, None),
        "user": table.take("user", values.text, None),
        "env": _environment(table.table("env")),
    }
    if driver == "process":
        broker = BrokerConfig(driver, table.take("command", values.argv), **common)
    elif driver == "exec":
        broker = BrokerConfig(driver, **common, **_commands(table, timings))
    else:
        own: dict[str, Any] = {name: _command(table, name) for name in EXEC_COMMANDS}
        broker = BrokerConfig(driver, table.take("command", values.argv, ()), **common, **own)
    table.finish()
    return broker


def _driver(value: object) -> str:
    if value in DRIVERS:
        return str(value)
    from importlib.metadata import entry_points  # here: it costs each process 3 MB

    others = sorted(point.name for point in entry_points(group=DRIVER_GROUP))
    if value in DRIVERS_TO_COME and value not in others:
        raise Bad(f"is not built yet (valid: {', '.join((*DRIVERS, *others))})")
    return values.choice((*DRIVERS, *others), "driver")(value)


def _commands(table: Table, timings: Timings) -> dict[str, Any]:
    limits = {"fence": timings.fencing}
    commands: dict[str, Any] = {}
    for name in EXEC_COMMANDS:
        commands[name] = command = _command(table, name, limits.get(name, Command.timeout))
        if command is None:
            table.missing(name)
        if name in limits and command.timeout > limits[name]:
            table.refuse(
                (f"{name}_timeout",),
                f"{command.timeout:g}s",
                f"does not fit into the lease: it may be {limits[name]:g}s at most with these"
                f" timings; for {command.timeout:g}s write [groups.NAME.timings] with a lease of"
                f" {timings.lease_for(command.timeout):g}s or more",
            )
    return commands


def _environment(table: Table) -> dict[str, str]:
    for name in table:
        if not name or "=" in name or "\0" in name:
            table.refuse((name,), None, "is no name of a variable")
        if name.startswith("UNDERSTUDY_LOCK_"):
            table.refuse((name,), None, "is set by the sidecar")
    return {name: table.take(name, _environment_value) for name in table}


def _environment_value(value: object) -> str:
    if not isinstance(value, str):
        raise Bad("must be a text")
    if "\0" in value:
        raise Bad(values.NUL)
    return str(value)


def _health(table: Table, uri: Secret) -> Health:
    scheme = parse(uri.reveal()).endpoints[0].scheme
    own = HEALTH_OF.get(scheme, "tcp")

    def read(value: object) -> _Way:
        if isinstance(value, str) and value.startswith(("http://", "https://")):
            return "http", str(value), ()
        if value in (own, "tcp"):
            return str(value), "", ()
        if value in HEALTH_KINDS and value not in ("http", "command"):
            raise Bad(f"does not fit to the node's uri, which is of {scheme}:")
        near = nearest(value, HEALTH_KINDS) if isinstance(value, str) else ""
        if near:
            raise Bad(
                "must be amqp, stomp, tcp, an http: address or a command, which may be written "
                f'["program"]{near}'
            )
        return "command", "", values.argv(value)

    default: _Way = (own, "", ())
    kind, url, argv = table.take("health", read, default)
    return Health(
        kind,
        url,
        argv,
        table.take("health_timeout", values.at_least(SHORTEST), Health.timeout),
        table.take("health_interval", values.at_least(SHORTEST), Health.interval),
        table.take("health_failures", values.whole(1, 100), Health.failures),
    )


def _api(table: Table) -> Api:
    for name in table:
        if name in ("api", "listen"):
            where = "[network], of bridges, or to a node, as [groups.NAME.nodes.NAME]"
            table.refuse((name,), None, f"belongs to {where}")
    api = Api(
        token=table.secret("token", values.secret, None),
        tls_cert=table.take("tls_cert", table.file_path, None),
        tls_key=table.take("tls_key", table.file_path, None),
        tls_ca=table.take("tls_ca", table.file_path, None),
        allow=table.take("allow", values.several(values.network), ()),
    )
    table.finish()
    if (api.tls_cert is None) != (api.tls_key is None):
        table.missing("tls_key" if api.tls_key is None else "tls_cert")
    return api


def _check_apart(source: Source, groups: Mapping[str, Group]) -> None:
    """What only one may have: an API's place, a lock, a store; and in a group, a broker."""
    apis: dict[Place, str] = {}
    locks: dict[str, str] = {}
    stores: dict[Path, str] = {}
    for group in groups.values():
        address = group.lock.reveal()
        is_own = not address.startswith("file:") and "key=" not in address  # key: the group's name
        other = None if is_own else locks.setdefault(address, group.name)
        if other not in (None, group.name):
            raise ConfigurationError(
                f"{source}: groups.{group.name}.lock = {values.shown(str(group.lock))} is the lock "
                f"of groups.{other} already; every group needs its own"
            )
        for store in group.stores:
            other = stores.setdefault(store, group.name)
            if other != group.name:
                raise ConfigurationError(
                    f'{source}: groups.{group.name}.store = "{store}" is a store of '
                    f"groups.{other} already; two groups would be two masters on it"
                )
        uris: dict[str, str] = {}
        for node in group.nodes.values():
            base = f"groups.{group.name}.nodes.{node.name}"
            _check_own(source, f"{base}.api", node.api, apis)
            _check_own(source, f"{base}.uri", node.address, uris)


def _check_own(source: Source, key: str, place: T, taken: dict[T, str]) -> None:
    other = taken.setdefault(place, key)
    if other != key:
        raise ConfigurationError(
            f'{source}: {key} = "{place}" is {other} already; every node needs its own'
        )
