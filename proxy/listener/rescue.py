"""The one place that turns a Rejection into an answer: a problem document (RFC 9457), or text or HTML by Accept.

Nothing of the upstream's state is in it, so a refusal by policy reads the same whether the application lives or not.
"""

from __future__ import annotations

import html
import time
from http import HTTPStatus
from math import ceil

import orjson

from proxy.exchange import Exchange, Response
from proxy.headers import Headers, Pair
from proxy.rejection import Rejection

REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class HttpDate:
    """The Date field's value, made once a second (RFC 9110 section 5.6.7)."""

    __slots__ = ("_second", "_value")

    def __init__(self) -> None:
        self._second = 0
        self._value = b""

    def __call__(self) -> bytes:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._value = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now)).encode()
        return self._value


http_date = HttpDate()


def refusal(exchange: Exchange, rejection: Rejection) -> Response:
    """The answer to a refused request; the caller runs the chain's response hooks over it."""
    body, media_type = _document(exchange, rejection)
    pairs: list[Pair] = [
        (b"date", http_date()),
        (b"content-type", media_type),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *rejection.headers,
    ]
    if rejection.retry_after is not None:
        pairs.append((b"retry-after", b"%d" % max(1, ceil(rejection.retry_after))))
    return Response(rejection.status, REASONS[rejection.status], Headers(pairs), body=body, own=True)


_KINDS = (
    (b"json", (b"application/problem+json", b"application/json")),
    (b"html", (b"text/html", b"application/xhtml+xml")),
    (b"text", (b"text/plain",)),
)


def _preferred(accept: bytes) -> bytes:
    """Of json, html and text what the client likes best (RFC 9110 section 12.5.1); json where it has no preference."""
    wishes: dict[bytes, float] = {}
    for part in accept.lower().split(b","):
        media, *parameters = [one.strip() for one in part.split(b";")]
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith(b"q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        wishes[media] = max(quality, wishes.get(media, 0.0))
    best, chosen = 0.0, b"json"
    for kind, names in _KINDS:
        quality = max((wishes[name] for name in names if name in wishes), default=0.0)
        if quality > best:
            best, chosen = quality, kind
    return chosen


def _document(exchange: Exchange, rejection: Rejection) -> tuple[bytes, bytes]:
    kind = _preferred(exchange.headers.index.get(b"accept", b""))
    request_id = exchange.request_id.decode()
    if kind == b"json":
        problem: dict[str, object] = {
            "type": f"urn:simplepro-proxy:rejection:{rejection.reason}",
            "title": rejection.title,
            "status": rejection.status,
            "detail": rejection.detail,
            "remedy": rejection.remedy,
            "rule": rejection.rule,
            "requestId": request_id,
        }
        if exchange.decision:
            problem["decision"] = exchange.decision.decode()
        if rejection.retry_after is not None:
            problem["retryAfter"] = max(1, ceil(rejection.retry_after))
        return orjson.dumps(problem), b"application/problem+json"
    lines = [f"{rejection.status} {rejection.title}", rejection.detail, rejection.remedy]
    facts = f"rule {rejection.rule}, request {request_id}"
    if exchange.decision:
        facts += f", decision {exchange.decision.decode()}"
    if kind == b"html":
        title, *texts = (html.escape(line) for line in lines)
        paragraphs = "".join(f"<p>{text}</p>" for text in texts if text)
        foot = f"<p><small>{html.escape(facts)}</small></p>\n"
        page = f"<!doctype html><title>{title}</title><h1>{title}</h1>{paragraphs}{foot}"
        return page.encode(), b"text/html; charset=utf-8"
    return "\n".join([*(line for line in lines if line), facts, ""]).encode(), b"text/plain; charset=utf-8"
