"""Where a request's body ends, decided once and strictly, and the checks that make a head unambiguous.

Every rule here exists because two recipients once disagreed: RFC 9112 sections 6.1, 6.3 and 11.2; RFC 9110 section 7.2.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address

from proxy.headers import Headers, tokens
from proxy.rejection import ExpectationFailed, MalformedRequest, Rejection, UnsupportedFraming

NO_BODY = 0
CHUNKED = -1
UNTIL_CLOSE = -2

_SINGLE = frozenset(
    {
        b"host", b"content-length", b"transfer-encoding", b"content-type", b"content-encoding", b"content-range",
        b"authorization", b"expect", b"upgrade", b"origin", b"range", b"sec-websocket-key", b"sec-websocket-version",
    }
)  # fmt: skip
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")
_HOST = re.compile(
    rb"(?:[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9_-]+)*\.?|\[([0-9A-Fa-f:.]{2,45})\])"
    rb"(?::([0-9]{1,5}))?"
)
_NEEDS_A_LOOK = frozenset({b"transfer-encoding", b"content-length", b"expect"})


class RequestFacts:
    """What a request's header fields say of its message and its connection, whatever its request line says.

    Raises a Rejection where they are ambiguous. `length` is the body's in bytes, NO_BODY or CHUNKED; `persistent`
    whether the client wants the connection kept (RFC 9112 section 9.3).
    """

    __slots__ = ("expects", "length", "persistent", "upgrades")

    def __init__(self, headers: Headers, minor: int, underscores: str) -> None:
        check_fields(headers, minor, underscores)
        self.length = request_framing(headers, minor)
        index = headers.index
        self.expects = b"expect" in index
        self.upgrades = b"upgrade" in index
        self.persistent = bool(minor)
        if b"connection" in index:
            wishes = {token for value in headers.all(b"connection") for token in tokens(value)}
            self.persistent = (self.persistent or b"keep-alive" in wishes) and b"close" not in wishes


def check_fields(headers: Headers, minor: int, underscores: str) -> None:
    """Refuse what another recipient could read otherwise; `underscores` is `refuse`, `drop` or `allow`."""
    index = headers.index
    if len(index) != len(headers.pairs):
        _check_repeated(headers)
    host = index.get(b"host")
    if host is None:
        if minor == 1:
            raise MalformedRequest("an HTTP/1.1 request needs a Host field", rule="http.host")
    elif not check_host(host):
        raise MalformedRequest("the Host field is no host with an optional port", rule="http.host")
    if underscores != "allow" and b"_" in b"".join(index):
        _check_underscores(headers, underscores)


def check_host(value: bytes) -> bool:
    """Whether it is a host with an optional port (RFC 9110 section 7.2): no userinfo, no path, no list."""
    match = _HOST.fullmatch(value)
    if match is None or (match[2] and int(match[2]) > 65535):
        return False
    if match[1]:
        try:
            IPv6Address(match[1].decode())
        except ValueError:
            return False
    return True


def _check_repeated(headers: Headers) -> None:
    seen: set[bytes] = set()
    for name, _ in headers.pairs:
        if name in seen and name in _SINGLE:
            raise MalformedRequest(f"the field {name.decode()} may appear only once", rule="http.repeated-field")
        seen.add(name)


def _check_underscores(headers: Headers, underscores: str) -> None:
    """`X_User` and `X-User` become one variable in CGI-like applications, so one can overwrite the other."""
    if underscores == "refuse":
        raise MalformedRequest(
            "a header field name contains an underscore",
            rule="http.underscored-headers",
            remedy="Use a hyphen in its place; the operator may set http.underscored_headers to drop or allow.",
        )
    headers.remove({name for name in headers.index if b"_" in name})


def request_framing(headers: Headers, minor: int) -> int:
    """The body's length in bytes, NO_BODY or CHUNKED. Raises where the framing could be read in two ways."""
    index = headers.index
    if _NEEDS_A_LOOK.isdisjoint(index):
        return NO_BODY
    if b"expect" in index and index[b"expect"].lower() != b"100-continue":
        raise ExpectationFailed("the Expect field asks for something unknown", rule="http.expect")
    coding = index.get(b"transfer-encoding")
    length = index.get(b"content-length")
    if coding is not None:
        if length is not None:
            raise _framing("Content-Length and Transfer-Encoding exclude each other")
        if minor == 0:
            raise _framing("HTTP/1.0 knows no Transfer-Encoding")
        if coding.lower() == b"chunked":
            return CHUNKED
        if b"chunked" in coding.lower():
            raise _framing("Transfer-Encoding has to be exactly: chunked")
        raise UnsupportedFraming("this transfer coding is not implemented", rule="http.framing")
    if length is None:
        return NO_BODY
    if not _LENGTH.fullmatch(length):
        raise _framing("Content-Length has to be a plain decimal number")
    return int(length)


def _framing(detail: str) -> Rejection:
    return MalformedRequest(detail, rule="http.framing")
