"""What TLS to an endpoint asks for, as its URI says."""

from __future__ import annotations

import ssl

from understudy.core.endpoint import Endpoint

__all__ = ["tls_context"]


def tls_context(endpoint: Endpoint) -> ssl.SSLContext:
    """A context that verifies certificate and name unless the URI says ``verify=false``.

    Raises OSError or ValueError for files that cannot be used.
    """
    options = endpoint.options
    context = ssl.create_default_context(cafile=options.cafile)
    if options.certfile is not None:
        context.load_cert_chain(options.certfile, options.keyfile)
    if options.verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
