"""A table of the file while it is read: what is there, what a variable says instead, what is wrong.

Rules
* A variable goes before the file. Its name is the key's path: `UNDERSTUDY_` and the names, in
  capitals, joined by two underscores; what is no letter or digit in a name is one underscore.
  ``groups.orders.nodes.a.weight`` is `UNDERSTUDY_GROUPS__ORDERS__NODES__A__WEIGHT`.
* A variable that looks like one of these and is none is refused, as an unknown key is. One without
  a double underscore is not ours (Kubernetes sets some for a service called understudy), unless
  only the second underscore is missing.
* Every error names file or variable, key, value and what would be valid.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from understudy.core.option_reader import nearest
from understudy.core.redact import MASK, is_secret
from understudy.errors import ConfigurationError
from understudyd.config.values import Bad, Said, dotted, shown, text

__all__ = ["Source", "Table", "variable"]

T = TypeVar("T")

PREFIX = "UNDERSTUDY_"
FOREIGN = ("UNDERSTUDY_LOCK_", "UNDERSTUDY_BRIDGES__", "UNDERSTUDY_NETWORK__")  # to a sidecar
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REQUIRED: Any = object()


def variable(*path: str) -> str:
    return PREFIX + "__".join(re.sub(r"[^A-Z0-9]", "_", name.upper()) for name in path)


class Source:
    """The file and the variables that one configuration comes from."""

    def __init__(self, file: Path, environ: Mapping[str, str]) -> None:
        self.file = file
        self._environ = environ
        self._known: dict[str, tuple[str, ...]] = {}

    def override(self, path: tuple[str, ...]) -> Said | None:
        name = variable(*path)
        self._known[name] = path
        said = self._environ.get(name)
        return None if said is None else Said(said)

    def check_variables(self, section: str = "") -> None:
        """Refuse what was meant for us and is for nothing; for this section of the file alone, or
        for what is of no other process."""
        prefix = f"{variable(section)}__" if section else PREFIX
        plain = {name.replace("__", "_"): name for name in self._known}
        for name in sorted(self._environ):
            if name in self._known or (not section and name.startswith(FOREIGN)):
                continue
            if "__" in name and name.startswith(prefix):
                near = nearest(name, self._known)
                raise ConfigurationError(f"the variable {name} stands for no key of {self}{near}")
            if name in plain:
                raise ConfigurationError(
                    f"the variable {name} stands for no key of {self}; did you mean {plain[name]}?"
                )

    def __str__(self) -> str:
        return str(self.file)


class Table:
    def __init__(
        self,
        source: Source,
        path: tuple[str, ...],
        data: object,
        valid: str = "must be a table",
    ) -> None:
        """``valid`` is told of what is no table."""
        self.source = source
        self.path = path
        self._known: list[str] = []
        if not isinstance(data, dict):
            self.refuse((), data, valid)
        self._data: dict[str, Any] = data

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __contains__(self, name: str) -> bool:
        return name in self._data or self.source.override((*self.path, name)) is not None

    def take(self, name: str, read: Callable[[object], T], default: T = _REQUIRED) -> T:
        """The value of a key; its variable's, when that is set."""
        self._known.append(name)
        said = self.source.override((*self.path, name))
        value = self._data.get(name) if said is None else said
        if value is None:
            if default is _REQUIRED:
                self.missing(name)
            return default
        try:
            return read(value)
        except Bad as exc:
            self.refuse((name,), value, str(exc), by_variable=said is not None)

    def secret(self, name: str, read: Callable[[object], T], default: T = _REQUIRED) -> T:
        """The same for what may stand in a file of its own: the key ``<name>_file``."""
        path = self.take(f"{name}_file", self.file_path, None)
        if path is None:
            return self.take(name, read, default)
        if name in self:
            self.refuse((name,), None, f"and {name}_file are both given; leave one out")
        try:
            value = path.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else "it is no text"
            self.refuse((f"{name}_file",), str(path), f"can't be read: {why}")
        self._known.append(name)
        try:
            return read(value)
        except Bad as exc:
            self.refuse((f"{name}_file",), str(path), f"its content {exc}")

    def file_path(self, value: object) -> Path:
        """A path; what is relative starts at the configuration's folder."""
        path = text(value)
        if path.startswith("~"):
            raise Bad("must be a path without ~: write the whole of it")
        return self.source.file.parent.absolute() / path

    def table(self, name: str, valid: str = "must be a table") -> Table:
        """A table in this one; empty when it is not there."""
        self._known.append(name)
        return Table(self.source, (*self.path, name), self._data.get(name, {}), valid)

    def tables(self, name: str) -> dict[str, Table]:
        """The named tables in a table, as ``nodes``."""
        valid = f"must be a table: write [{dotted((*self.path, name))}.NAME]"
        outer = self.table(name, valid)
        seen: dict[str, str] = {}
        for key in outer:
            if not NAME.fullmatch(key):
                outer.refuse((key,), None, "must be named with letters, digits and . _ - only")
            other = seen.setdefault(variable(key), key)
            if other != key:
                outer.refuse((key,), None, f"has the name of {other} but for case or signs")
        return {key: outer.table(key, valid) for key in outer}

    def skip(self, name: str) -> None:
        """A key that somebody else reads."""
        self._known.append(name)

    def finish(self) -> None:
        """Refuse keys that nobody has asked for."""
        for name in self._data:
            if name not in self._known:
                valid = ", ".join(sorted(set(self._known)))
                near = nearest(name, self._known)
                self.refuse((name,), None, f"is no known key (valid: {valid}){near}")

    def missing(self, name: str) -> NoReturn:
        """A key that looks like this one misspelled is told of instead."""
        for other in self._data:
            if other not in self._known and nearest(other, [name]):
                self.refuse((other,), None, f"is no known key{nearest(other, [name])}")
        key = dotted((*self.path, name))
        raise ConfigurationError(
            f"{self.source}: {key} is missing (as a variable: {variable(*self.path, name)})"
        )

    def refuse(
        self, name: tuple[str, ...], value: object, why: str, *, by_variable: bool = False
    ) -> NoReturn:
        path = (*self.path, *name)
        key = dotted(path) or "the file"
        where = f"variable {variable(*path)}" if by_variable else str(self.source)
        raise ConfigurationError(f"{where}: {key}{_told(path, value)} {why}")


def _told(path: tuple[str, ...], value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        return f" ({shown(value)})"
    is_hidden = is_secret(path[-1]) and not path[-1].endswith("_file")  # a path is no secret
    return f" = {MASK if is_hidden else shown(value)}"
