"""Real brokers die under a real Celery application: ``make demo``.

Two independent RabbitMQ nodes, each with its own workers; publishers that know both. The active
broker is killed in mid-stream, comes back, and the one that took over is frozen for a while. The
same is done to Celery's own list of brokers, and the two outcomes are printed side by side.
"""

from __future__ import annotations
