"""What a STOMP broker's ERROR means, as the code that AMQP has for it.

RabbitMQ says the name of AMQP's error in the header ``message``, ActiveMQ the class of a Java
exception in the body. A message can be at fault unless the text tells of the broker itself, of a
right that is missing or of a destination: one bad message that is not known for one would come
again for ever, while one that is parked wrongly can be sent again.
"""

from __future__ import annotations

import re
from typing import Final

from understudy.wire.stomp import RawFrame
from understudy.wire.stomp_login import error_text
from understudyd.bridge.wire.amqp import Closed

__all__ = ["of_error"]

_NAMED: Final = {
    "content_too_large": 311,
    "connection_forced": 320,
    "access_refused": 403,
    "not_found": 404,
    "resource_locked": 405,
    "precondition_failed": 406,
    "frame_error": 501,
    "syntax_error": 502,
    "resource_error": 506,
    "not_allowed": 530,
    "not_implemented": 540,
    "internal_error": 541,
}
_SYNTAX_ERROR: Final = 502
#: The first that is found counts. Java's classes are told from the words of a text by their case.
_SAID: Final = (
    (403, re.compile(r"SecurityException|(?i:not authori[sz]ed|permission|access refused)")),
    (311, re.compile(r"(?i:maximum (frame size|data length|header length|number of headers))")),
    (
        506,
        re.compile(r"ResourceAllocationException|(?i:limit reached| is full|no space)"),
    ),
    (320, re.compile(r"StoppedException|DisposedException|(?i:shutting down|is being stopped)")),
    (
        541,
        re.compile(r"(IO|SQL|Interrupted)Exception|(?i:timed out)"),
    ),
    (
        404,
        re.compile(
            r"(InvalidDestination|DestinationDoesNotExist)Exception"
            r"|(?i:does not exist|unknown destination)"
        ),
    ),
)


def of_error(frame: RawFrame) -> Closed:
    """The end of a connection over this ERROR."""
    message = frame.headers.get("message", "")
    code = _NAMED.get(message)
    if code is None:
        first = frame.body.decode("utf-8", "replace").strip().partition("\n")[0]
        whole = f"{message}\n{first}"  # what is told of it may lack what stands behind an address
        code = next((code for code, said in _SAID if said.search(whole)), _SYNTAX_ERROR)
    return Closed("connection", code, error_text(frame))
