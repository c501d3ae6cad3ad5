"""Decides whether a request comes from this machine, and whether a browser sent it from another site. Pure."""

from __future__ import annotations

import ipaddress
import re

from starlette.requests import HTTPConnection

PROXY_HEADERS = (
    *("forwarded", "x-forwarded", "x-original-", "x-rewrite-", "x-real-", "x-client-", "x-cluster-", "x-remote-"),
    *("x-host", "x-scheme", "x-proxy", "x-ssl", "x-envoy-", "x-amz", "x-azure-", "x-appengine-", "x-arr-", "x-vercel-"),
    *("x-varnish", "x-nginx-", "x-cloud-trace-", "x-sendfile-", "via", "proxy-", "max-forwards", "true-client-"),
    *("client-ip", "remote-addr", "ssl-client-", "cf-", "cdn-", "fastly-", "fly-", "akamai-", "incap-", "ngrok-"),
)
"""Prefixes of the headers that proxies add. A proxy on this machine has a loopback address, and forwards requests from
everywhere; so a request with such a header is not local."""
HOST = re.compile(r"(\[[0-9a-f]*:[0-9a-f:.]+\]|[a-z0-9.]+)(?::[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
"""A Host header that may be local: a name or address, and a port."""


def is_loopback(host: str) -> bool:
    """Whether a name or address to listen on is reachable only from this machine."""
    name = host.strip("[]").rstrip(".").lower()
    return name == "localhost" or name.endswith(".localhost") or _is_loopback_address(name.partition("%")[0])


def is_local(request: HTTPConnection) -> bool:
    """Whether a request comes from this machine and addresses this machine, as far as it shows.

    The client address alone is not enough: another site can resolve its own name to our address (DNS rebinding), and a
    proxy on this machine forwards requests from everywhere. One case stays undetected: a proxy that sends our own
    address as Host, adds no header and speaks HTTP/1.1. A program's request through it is taken as local; a browser's
    is refused once it names the page that sent it.
    """
    headers, client = request.headers, request.client
    hosts = headers.getlist("host")
    if client is None or not _is_loopback_address(client.host.partition("%")[0]):
        return False
    if len(hosts) != 1 or not is_local_host(hosts[0]):
        return False
    if any(name.lower().replace("_", "-").startswith(PROXY_HEADERS) for name in headers):
        return False
    if str(request.scope.get("http_version", "1.1")) == "1.0":  # the default of proxies, and of no browser
        return False
    # A proxy that adds no header leaves those of the browser unchanged: the page that sent the request.
    pages = headers.getlist("origin")
    if headers.get("sec-fetch-site", "same-origin") == "same-origin":  # otherwise a link on another site led here
        pages += headers.getlist("referer")
    return all(is_local_host(page.partition("://")[2].partition("/")[0]) for page in pages)


def is_local_host(host: str) -> bool:
    """Whether a Host header is localhost or a loopback address, with at most a port."""
    found = HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1].lower()
    return name == "localhost" or _is_loopback_address(name.removeprefix("[").removesuffix("]"))


def _is_loopback_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def is_cross_site(request: HTTPConnection) -> bool:
    """Whether a browser reports that a page of another site sent this request."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site != "same-origin"
    origin = request.headers.get("origin")
    if origin is None:
        return False
    return origin.partition("://")[2].lower() != request.headers.get("host", "").lower()
