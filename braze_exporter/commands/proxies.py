"""Find the proxy of each workspace in the environment, as curl and Go do."""

import contextlib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from urllib.parse import SplitResult, urlsplit

from braze_exporter.config.document import ConfigError, Problem
from braze_exporter.config.values import is_loopback

# The first of these variables that is not empty is used. Workspaces without a proxy for https have a loopback address.
_PROXY_VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_INVALID = (
    "is not the URL of an HTTP proxy; set it to one such as http://user:password@proxy.example.com:3128, with # and / "
    "in the password as %23 and %2F (SOCKS is not supported)"
)
# A host name, an address or a network, with an optional port.
_NO_PROXY_ENTRY = re.compile(r"(\[[^]]*\]|[^:]*)(?::(\d+))?")


def find_proxies(urls: Iterable[str], environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the URL of the proxy for the scheme and host of each of `urls`. Loopback addresses have no proxy.

    Raises `ConfigError`, without the password, if the URL of a proxy is invalid.
    """
    variable = next((name for name in _PROXY_VARIABLES if environ.get(name)), None)
    no_proxy = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    proxied = [url for url in map(urlsplit, urls) if variable and not _is_excluded(url, no_proxy)]
    if not variable or not proxied:
        return {}
    proxy = environ[variable] if "://" in environ[variable] else f"http://{environ[variable]}"
    if not _is_proxy_url(proxy):
        raise ConfigError(variable, [Problem((), _INVALID)])
    return {f"{url.scheme}://{url.hostname}": proxy for url in proxied}


def _is_proxy_url(url: str) -> bool:
    """Return whether `url` has a host and no path. A `#`, `/` or `?` in the password ends the host."""
    if not url.isprintable() or url != url.strip():  # `urlsplit` removes line breaks and spaces
        return False
    with contextlib.suppress(ValueError):  # from a port or a host name that is invalid
        parts = urlsplit(url)
        host = parts.hostname or ""
        has_host = parts.port != 0 and " " not in host and bool(host.encode("idna"))
        return (
            parts.scheme in {"http", "https"} and has_host and not parts.path.strip("/") + parts.query + parts.fragment
        )
    return False


def _is_excluded(url: SplitResult, no_proxy: str) -> bool:
    """Return whether `no_proxy` lists the host of `url`, or the host is a loopback address.

    Entries are separated by commas or spaces. `example.com`, `.example.com` and `*.example.com` contain the domain and
    its subdomains. An entry can also be `*`, an address, or a network such as `10.0.0.0/8`, and end with a port.
    """
    host = (url.hostname or "").rstrip(".")
    if is_loopback(host):
        return True
    for entry in re.split(r"[,\s]+", no_proxy.lower()):
        match = _NO_PROXY_ENTRY.fullmatch(entry)
        name, port = match.groups() if match else (entry, None)  # an IPv6 address without brackets has no port
        if (port is None or int(port) == (url.port or 443)) and _contains(name.strip("[]"), host):
            return True
    return False


def _contains(name: str, host: str) -> bool:
    with contextlib.suppress(ValueError):  # one of them is a name
        return ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
    domain = name.removeprefix("*").strip(".")
    return name == "*" or (domain != "" and f".{host}".endswith(f".{domain}"))
