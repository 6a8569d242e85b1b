"""Which addresses content may be fetched from: public ones, and private ones where a setting says so.

Sources: the IANA special-purpose address registries, RFC 6052 (NAT64) and RFC 5214 (ISATAP). The tables are
our own since those of `ipaddress` differ between patch releases of Python.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network

_PRIVATE_V4 = {
    IPv4Network("10.0.0.0/8"): "private",
    IPv4Network("172.16.0.0/12"): "private",
    IPv4Network("192.168.0.0/16"): "private",
    IPv4Network("127.0.0.0/8"): "loopback",
    IPv4Network("100.64.0.0/10"): "shared by a carrier (CGNAT)",
}
_NEVER_V4 = {
    IPv4Network("0.0.0.0/8"): "unspecified",
    IPv4Network("100.100.100.200/32"): "a cloud's metadata service",
    IPv4Network("169.254.0.0/16"): "link-local",
    IPv4Network("192.0.0.0/24"): "reserved for protocols",
    IPv4Network("192.0.2.0/24"): "reserved for documentation",
    IPv4Network("192.88.99.0/24"): "a 6to4 relay",
    IPv4Network("198.18.0.0/15"): "reserved for benchmarks",
    IPv4Network("198.51.100.0/24"): "reserved for documentation",
    IPv4Network("203.0.113.0/24"): "reserved for documentation",
    IPv4Network("224.0.0.0/4"): "multicast",
    IPv4Network("240.0.0.0/4"): "reserved",
}
_PRIVATE_V6 = {
    IPv6Network("::1/128"): "loopback",
    IPv6Network("fc00::/7"): "private",
}
_NEVER_V6 = {
    IPv6Network("::/128"): "unspecified",
    IPv6Network("::ffff:0:0/96"): "an IPv4-mapped address",
    IPv6Network("fd00:ec2::254/128"): "a cloud's metadata service",
    IPv6Network("fe80::/10"): "link-local",
    IPv6Network("ff00::/8"): "multicast",
    IPv6Network("2001::/23"): "reserved for protocols (Teredo and others)",
    IPv6Network("2001:db8::/32"): "reserved for documentation",
    IPv6Network("2002::/16"): "a 6to4 address, which hides an IPv4 address",
    IPv6Network("3fff::/20"): "reserved for documentation",
}
_NAT64 = IPv6Network("64:ff9b::/96")
_GLOBAL_V6 = IPv6Network("2000::/3")
_ISATAP = 0x5EFE


def refusal(address: str, *, private_allowed: bool = False) -> str | None:
    """Why a numeric address must not be connected to; None when it may be.

    `private_allowed` admits private, loopback and carrier-shared addresses, never the others.
    """
    if ":" not in address:
        try:
            return _refusal_v4(IPv4Address(address), private_allowed=private_allowed)
        except AddressValueError:
            return "no address in its canonical form"
    try:
        return _refusal_v6(IPv6Address(address), private_allowed=private_allowed)
    except AddressValueError:
        return "no address in its canonical form"


def _refusal_v4(address: IPv4Address, *, private_allowed: bool) -> str | None:
    tables = (_NEVER_V4,) if private_allowed else (_NEVER_V4, _PRIVATE_V4)
    return next((why for table in tables for network, why in table.items() if address in network), None)


def _refusal_v6(address: IPv6Address, *, private_allowed: bool) -> str | None:
    if address.scope_id is not None:
        return "bound to an interface"
    embedded = _embedded(address)
    if embedded is not None:
        why = _refusal_v4(embedded, private_allowed=private_allowed)
        if why is not None:
            return f"{why} ({embedded} within IPv6)"
    for network, why in _NEVER_V6.items():
        if address in network:
            return why
    for network, why in _PRIVATE_V6.items():
        if address in network:
            return None if private_allowed else why
    return None if address in _NAT64 or address in _GLOBAL_V6 else "not public"


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a NAT64 or ISATAP router would send on to."""
    number = int(address)
    is_isatap = (number >> 32) & 0xFDFFFFFF == _ISATAP
    return IPv4Address(number & 0xFFFFFFFF) if address in _NAT64 or is_isatap else None
