"""Cross-origin requests: preflights answered here, origins matched without regular expressions (Fetch, section 3.2)."""

from __future__ import annotations

from proxy.exchange import Answered, Exchange, Response
from proxy.filter import Mode, Rule, RuleFilter
from proxy.headers import Headers, tokens
from proxy.origins import Origins
from proxy.rejection import Forbidden


def _vary(response: Response) -> None:
    """A shared cache may not give one origin's answer to another (Fetch, section 3.2.5)."""
    if not any(b"origin" in tokens(value) for value in response.headers.all(b"vary")):
        response.headers.add(b"vary", b"Origin")


class Cors(RuleFilter):
    __slots__ = ("_credentials", "_expose", "_headers", "_max_age", "_methods", "_origins", "_varies")

    def __init__(
        self,
        rule: Rule,
        origins: tuple[str, ...],
        methods: tuple[str, ...],
        headers: tuple[str, ...],
        expose: tuple[str, ...],
        *,
        credentials: bool,
        max_age: float,
    ) -> None:
        super().__init__(rule)
        self._origins = Origins(origins)
        self._varies = rule.mode is Mode.ENFORCE and ("*" not in origins or credentials)
        self._methods = tuple(method.encode() for method in methods)
        self._headers = frozenset(name.lower().encode() for name in headers)
        self._expose = ", ".join(expose).encode()
        self._credentials = credentials
        self._max_age = b"%d" % max_age

    def on_request(self, exchange: Exchange) -> None:
        index = exchange.headers.index
        origin = index.get(b"origin")
        if origin is None:
            return
        if origin not in self._origins:
            if not self._same_origin(exchange, origin):
                self._rule.refuse(
                    exchange,
                    Forbidden("this origin has no access", remedy="Ask the operator to list it under cors.origins."),
                )
            return
        if (
            exchange.method == b"OPTIONS"
            and b"access-control-request-method" in index
            and self._rule.enforces(exchange)
        ):
            raise Answered(self._preflight(exchange))

    def _same_origin(self, exchange: Exchange, origin: bytes) -> bool:
        return origin.lower() == b"%b://%b" % (exchange.scheme, (exchange.public_host or exchange.host).lower())

    def _preflight(self, exchange: Exchange) -> Response:
        asked = tokens(exchange.headers.index.get(b"access-control-request-headers", b""))
        allowed = [name for name in asked if name in self._headers]
        response = Response(204, b"No Content", Headers([]), own=True)
        response.headers.add(b"access-control-allow-methods", b", ".join(self._methods))
        if allowed:
            response.headers.add(b"access-control-allow-headers", b", ".join(allowed))
        response.headers.add(b"access-control-max-age", self._max_age)
        return response

    def on_response(self, exchange: Exchange, response: Response) -> None:
        origin = exchange.headers.index.get(b"origin")
        if origin is None:
            if self._varies and not response.own:
                if b"vary" in response.headers.index:
                    _vary(response)
                else:
                    response.blocks.append(b"vary: Origin\r\n")
            return
        if not self._rule.enforces(exchange):
            return
        if not response.own:
            response.headers.remove([name for name in response.headers.index if name.startswith(b"access-control-")])
        _vary(response)
        if origin not in self._origins:
            return
        response.headers.add(b"access-control-allow-origin", origin)
        if self._credentials:
            response.headers.set(b"access-control-allow-credentials", b"true")
        if self._expose:
            response.headers.set(b"access-control-expose-headers", self._expose)
