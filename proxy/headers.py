"""Header fields as they travel: an ordered list of raw pairs with lower-case names, and an index over it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

Pair = tuple[bytes, bytes]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""RFC 9110 section 7.6.1, with the obsolete ones that are still sent."""

ASSERTED = frozenset(
    {
        b"via", b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port",
        b"x-forwarded-server", b"x-forwarded-prefix", b"x-forwarded-ssl", b"x-real-ip", b"x-client-ip",
        b"true-client-ip", b"x-cluster-client-ip", b"x-request-id", b"x-correlation-id", b"x-csp-nonce",
        b"traceparent", b"tracestate", b"x-request-timeout", b"x-request-deadline",
        b"x-forwarded-client-cert",
    }
)  # fmt: skip
"""What the proxy says itself, or nobody: taken out of what a client sent, wherever it stood."""

UNNAMEABLE = frozenset({b"host", b"authorization", b"cookie", b"set-cookie", b"via", b"forwarded", b"traceparent"})
"""What a Connection header can't ask to be removed; nor can it name `content-*`, `x-forwarded-*` or our own ids."""

_UNNAMEABLE_PREFIXES = (b"content-", b"x-forwarded-", b"x-request-", b"x-correlation-", b"sec-websocket-")


class Headers:
    """`pairs` keeps order and repetition; `index` answers "is it there" and holds a name's last value.

    `encoded` is for who encodes them: what of them was sent on, as bytes; a change of the fields makes it None again.
    Of a `template` (another message's fields, the same byte for byte) pairs and index are shared until they change.
    """

    __slots__ = ("encoded", "index", "pairs", "template")

    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs = pairs
        self.index = dict(pairs)
        self.encoded: bytes | None = None
        self.template: Headers | None = None

    @classmethod
    def like(cls, template: Headers) -> Headers:
        made = cls.__new__(cls)
        made.pairs = template.pairs
        made.index = template.index
        made.encoded = template.encoded
        made.template = template
        return made

    def keep_encoded(self, encoded: bytes) -> None:
        """What of these fields was sent on; the same for all that have the same template."""
        self.encoded = encoded
        if self.template is not None:
            self.template.encoded = encoded

    def get(self, name: bytes) -> bytes | None:
        return self.index.get(name)

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.pairs if key == name]

    def __contains__(self, name: bytes) -> bool:
        return name in self.index

    def remove(self, names: Collection[bytes]) -> None:
        self.replace([pair for pair in self.pairs if pair[0] not in names])

    def replace(self, pairs: list[Pair]) -> None:
        """Have these fields instead."""
        self.pairs = pairs
        self.index = dict(pairs)
        self.encoded = None
        self.template = None

    def set(self, name: bytes, value: bytes) -> None:
        """Replace every field of that name by one."""
        if name in self.index:
            self.remove((name,))
        self.add(name, value)

    def add(self, name: bytes, value: bytes) -> None:
        if self.template is not None:
            self.pairs = list(self.pairs)
            self.index = dict(self.index)
            self.template = None
        self.pairs.append((name, value))
        self.index[name] = value
        self.encoded = None


_NAMES_NOTHING = frozenset({b"keep-alive", b"close", b"Keep-Alive", b"Close"})


def encode(pairs: Iterable[Pair]) -> bytes:
    return b"".join([b"%b: %b\r\n" % pair for pair in pairs])


def tokens(value: bytes) -> list[bytes]:
    """A comma-separated list's members, lower-cased (RFC 9110 section 5.6.1)."""
    return [token for part in value.lower().split(b",") if (token := part.strip(b" \t"))]


def with_named(fixed: frozenset[bytes], headers: Headers) -> frozenset[bytes]:
    """`fixed` and the fields that Connection declares to be for this hop only, less those that it has no say over."""
    if headers.index[b"connection"] in _NAMES_NOTHING and len(headers.index) == len(headers.pairs):
        return fixed
    named = {token for value in headers.all(b"connection") for token in tokens(value)}
    return fixed | {name for name in named if name not in UNNAMEABLE and not name.startswith(_UNNAMEABLE_PREFIXES)}
