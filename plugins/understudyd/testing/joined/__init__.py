"""An ActiveMQ and a RabbitMQ joined by a bridge, while both and the bridge die: ``make demo``.

A producer sends to the ActiveMQ, a consumer takes from the RabbitMQ. RabbitMQ is killed in
mid-stream and comes back, then ActiveMQ, then the bridge itself. What was sent and what arrived is
counted.
"""

from __future__ import annotations

__all__: list[str] = []
