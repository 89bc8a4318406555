"""Messages kept on disk between the source of a link and its target; off unless it is asked for.

`format` is what lies on disk, `store` what is done with it over the `port`, `disk` that port with
real files. `records` makes bytes of messages and back; `intake` takes messages from the source
into the spool, `source` gives them to the link.
"""

from __future__ import annotations
