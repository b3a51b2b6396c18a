"""Parse the addresses that a server listens on, and open their sockets."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterable

_MAX_PORT = 65_535
_BACKLOG = 1_024  # the listen backlog


class ListenError(Exception):
    """Raised if a server cannot listen on an address. The message names the address and the reason."""

    def __init__(self, address: str, error: OSError) -> None:
        """Describe the `error` of listening on `address`."""
        # `socket.create_server` adds text to `strerror`, and the resolver has its own error numbers.
        reason = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror
        super().__init__(f"cannot listen on {address} ({reason})")


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `:port`. An IPv6 address as the host is in brackets: `[::1]:port`.

    Raises `ValueError` if `address` does not have that form.
    """
    host, colon, port = address.rpartition(":")
    is_port = colon and port.isascii() and port.isdigit() and int(port) <= _MAX_PORT
    is_ipv6 = host.startswith("[") and host.endswith("]")
    if not is_port or not _is_encodable(host) or is_ipv6 != (":" in host):
        raise ValueError(f"{address} is not host:port or :port, such as :27293")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _is_encodable(host: str) -> bool:
    """Return whether the resolver, which encodes names, accepts `host`. It may be empty."""
    with contextlib.suppress(UnicodeError):
        return host.isprintable() and (not host or bool(host.encode("idna")))
    return False


def listen(addresses: Iterable[str]) -> list[socket.socket]:
    """Return a listening socket for each of `addresses`.

    An address without a host, and `[::]`, means all interfaces, with IPv4 and IPv6 where the system has both.

    Raises `ListenError` if the server cannot listen on one of the addresses, and then listens on none. Raises
    `ValueError` if an address is invalid.
    """
    with contextlib.ExitStack() as opened:
        listeners = [opened.enter_context(_listen(address)) for address in addresses]
        opened.pop_all()
    return listeners


def _listen(address: str) -> socket.socket:
    host, port = split_address(address)
    try:
        if host in {"", "::"} and socket.has_dualstack_ipv6():
            try:
                return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
            except OSError as error:
                if host or error.errno == errno.EADDRINUSE:
                    raise
        # A name may have only IPv6 addresses. If it has both, the server listens on IPv4, as those of Go do.
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, resolved = min(found, key=lambda item: item[0] != socket.AF_INET)
        return socket.create_server(resolved, family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ListenError(address, error) from None


def format_address(listener: socket.socket) -> str:
    """Return the address on which a socket listens, such as `127.0.0.1:27293` or `[::]:27293`."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
