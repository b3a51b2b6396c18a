"""Parse the addresses that a server listens on, and open their sockets."""

import errno
import socket

_MAX_PORT = 65_535
_BACKLOG = 1_024  # the listen backlog


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `:port`.

    Raises `ValueError` if `address` does not have that form.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > _MAX_PORT:
        raise ValueError(f"{address} is not host:port or :port, such as :27293")
    return host.removeprefix("[").removesuffix("]"), int(port)


def listen(address: str) -> socket.socket:
    """Return a socket that listens on `address`, or on all interfaces if it has no host.

    Raises `OSError` if that fails, and `ValueError` if `address` is invalid.
    """
    host, port = split_address(address)
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
    return socket.create_server(("", port), backlog=_BACKLOG)
