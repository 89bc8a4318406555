"""A list of brokers as text: commas or line ends between addresses. Pure.

Rules: blanks around an address do not count, a line that begins with ``#`` is a comment, empty
places are skipped, the first of equal addresses counts. Whether an address is one is not judged
here.
"""

from __future__ import annotations

__all__ = ["LONGEST", "MOST", "read_list"]

LONGEST = 1024  # characters of an address that is used
MOST = 200  # addresses of one source that are used; the rest of a flood is not even kept


def read_list(text: str) -> tuple[str, ...]:
    lines = (line.strip() for line in text.lstrip("\ufeff").splitlines())
    parts = (part.strip() for line in lines if line[:1] != "#" for part in line.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))
