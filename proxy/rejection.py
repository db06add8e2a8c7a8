"""Why a request goes no further: one class a reason, each with its HTTP status and its WebSocket close code.

Nothing here knows how an answer is written; `listener.rescue` alone does.
"""

from __future__ import annotations

from typing import ClassVar

HeaderPairs = tuple[tuple[bytes, bytes], ...]


class Rejection(Exception):
    """A typed refusal.

    `detail` says what was wrong with this request, `remedy` what its sender (or the operator) can do, `rule` which
    policy rule or built-in check refused, `retry_after` seconds after which another try makes sense. No field may
    carry a secret or a personal datum: all of them are shown to the client and logged.
    """

    status: ClassVar[int] = 500
    close_code: ClassVar[int] = 1008
    reason: ClassVar[str] = "rejected"
    title: ClassVar[str] = "Rejected"
    remedy: str = ""
    ends_connection: ClassVar[bool] = False
    """Whether the byte stream can't be trusted past this point (RFC 9112 section 2.2, 6.3)."""

    def __init__(
        self,
        detail: str,
        *,
        remedy: str = "",
        rule: str = "",
        retry_after: float | None = None,
        headers: HeaderPairs = (),
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.rule = rule or f"builtin.{self.reason}"
        self.retry_after = retry_after
        self.headers = headers
        if remedy:
            self.remedy = remedy


class MalformedRequest(Rejection):
    """The bytes are no valid HTTP/1.x request, or could be read in two ways (RFC 9112)."""

    status, close_code, reason, title = 400, 1002, "malformed-request", "Malformed request"
    remedy = "Send one unambiguous HTTP/1.1 message; a client library in good order does."
    ends_connection = True


class AmbiguousTarget(Rejection):
    """The request target can be read in more than one way (RFC 3986 section 6)."""

    status, close_code, reason, title = 400, 1008, "ambiguous-target", "Ambiguous request target"
    remedy = "Send the normalised form of the path."


class HeadTooLarge(Rejection):
    status, close_code, reason, title = 431, 1009, "head-too-large", "Request head too large"
    remedy = "Send fewer or shorter header fields (large cookies are the usual cause)."
    ends_connection = True


class TargetTooLong(Rejection):
    status, close_code, reason, title = 414, 1009, "target-too-long", "Request target too long"
    remedy = "Shorten the URL, or send the data in a body."
    ends_connection = True


class BodyTooLarge(Rejection):
    status, close_code, reason, title = 413, 1009, "body-too-large", "Body too large"
    remedy = "Send a smaller body, or in parts."


class UnsupportedFraming(Rejection):
    """A transfer coding that isn't `chunked` (RFC 9112 section 6.1)."""

    status, close_code, reason, title = 501, 1002, "unsupported-transfer-coding", "Transfer coding not implemented"
    remedy = "Use Content-Length or Transfer-Encoding: chunked."
    ends_connection = True


class UnsupportedVersion(Rejection):
    status, close_code, reason, title = 505, 1002, "unsupported-version", "HTTP version not supported"
    remedy = "Use HTTP/1.1."
    ends_connection = True


class MethodNotImplemented(Rejection):
    status, close_code, reason, title = 501, 1002, "method-not-implemented", "Method not implemented"
    remedy = "This is a reverse proxy: it opens no tunnels and echoes no requests."


class UnknownMethod(Rejection):
    """RFC 9110 section 9.1."""

    status, close_code, reason, title = 501, 1002, "unknown-method", "Method not known"
    remedy = "Use one of GET, HEAD, POST, PUT, PATCH, DELETE and OPTIONS."
    ends_connection = True


class MethodNotAllowed(Rejection):
    status, close_code, reason, title = 405, 1008, "method-not-allowed", "Method not allowed"


class UnsupportedMediaType(Rejection):
    status, close_code, reason, title = 415, 1003, "unsupported-media-type", "Unsupported media type"


class InvalidBody(Rejection):
    """A body that is not what its media type says, or says it in more than one way."""

    status, close_code, reason, title = 400, 1007, "invalid-body", "Invalid body"
    remedy = "Send a well-formed body of the media type that it is declared as."


class ContractViolation(Rejection):
    """A request that the API's own description does not allow."""

    status, close_code, reason, title = 400, 1008, "contract-violation", "Not as the API describes"
    remedy = "Send what the API's OpenAPI document describes."


class AttackSuspected(Rejection):
    """What was sent has the structure of an attack."""

    status, close_code, reason, title = 403, 1008, "attack-suspected", "Refused by inspection"
    remedy = "If this is honest, give the operator the request id: rules can be excluded by parameter and route."


class ExpectationFailed(Rejection):
    status, close_code, reason, title = 417, 1002, "expectation-failed", "Expectation failed"
    remedy = "The only expectation known is 100-continue (RFC 9110 section 10.1.1)."


class BadHandshake(Rejection):
    """A WebSocket handshake that RFC 6455 section 4.2.1 doesn't allow."""

    status, close_code, reason, title = 400, 1002, "bad-websocket-handshake", "Bad WebSocket handshake"
    remedy = "Send a version 13 handshake with a 16-byte Sec-WebSocket-Key."


class UpgradeNotAllowed(Rejection):
    status, close_code, reason, title = 403, 4403, "upgrade-not-allowed", "Upgrade not allowed"
    remedy = "This route takes no WebSockets: use one that does."


class Unauthenticated(Rejection):
    """No bearer token, or none that could be verified (RFC 9110 section 15.5.2)."""

    status, close_code, reason, title = 401, 4401, "unauthenticated", "Unauthenticated"
    remedy = "Log in, and send the access token as Authorization: Bearer."


class Forbidden(Rejection):
    status, close_code, reason, title = 403, 4403, "forbidden", "Forbidden"


class Banned(Rejection):
    """Kept out for a time, for what was done before."""

    status, close_code, reason, title = 403, 4403, "banned", "Banned for a time"
    remedy = "Wait until the ban has ended, and stop what led to it; the operator can lift it."


class RateLimited(Rejection):
    """More than a quota allows (RFC 6585 section 4)."""

    status, close_code, reason, title = 429, 4429, "rate-limited", "Too many requests"


class MessageTooLarge(Rejection):
    """A WebSocket message, or what it inflates to, is larger than the policy allows."""

    status, close_code, reason, title = 413, 1009, "message-too-large", "Message too large"
    remedy = "Send smaller messages."


class InvalidPayload(Rejection):
    """A WebSocket message is not what it says: text, JSON, compressed."""

    status, close_code, reason, title = 400, 1007, "invalid-payload", "Invalid payload"


class MessageRefused(Rejection):
    """A WebSocket message that this client may not send."""

    status, close_code, reason, title = 403, 1008, "message-refused", "Message refused"


class ProtocolViolation(Rejection):
    """Frames that RFC 6455 does not allow."""

    status, close_code, reason, title = 400, 1002, "protocol-violation", "Protocol violated"
    remedy = "A WebSocket library in good order sends no such frame."


class SlowConsumer(Rejection):
    """A WebSocket client does not take what is sent to it."""

    status, close_code, reason, title = 503, 1013, "slow-consumer", "Slow consumer"


class NoRoute(Rejection):
    status, close_code, reason, title = 404, 1008, "no-route", "No route"
    remedy = "Check host, path and method against the routes (simplepro-proxy routes)."


class SlowClient(Rejection):
    """The client did not send, or did not read, within its time limit."""

    status, close_code, reason, title = 408, 1008, "slow-client", "Request timeout"
    remedy = "Send the request without long pauses."
    ends_connection = True


class TooManyConnections(Rejection):
    status, close_code, reason, title = 503, 1013, "too-many-connections", "Too many connections"
    remedy = "Close idle connections or try again later."
    ends_connection = True


class Draining(Rejection):
    status, close_code, reason, title = 503, 1012, "draining", "Shutting down"
    remedy = "Try again: another instance will answer."
    ends_connection = True


class UpstreamBusy(Rejection):
    """No connection to the cluster became free in time, or too many requests wait for one already."""

    status, close_code, reason, title = 503, 1013, "upstream-busy", "Upstream busy"
    remedy = "Try again later."


class BreakerIsOpen(Rejection):
    """The cluster failed too often lately; it is left alone until `retry_after`, when the breaker probes."""

    status, close_code, reason, title = 503, 1013, "breaker-open", "Upstream failing"
    remedy = "Try again once the breaker has probed."


class Overloaded(Rejection):
    """More work than can be done in good time; low priorities are refused first."""

    status, close_code, reason, title = 503, 1013, "overloaded", "Overloaded"
    remedy = "Try again later, with growing pauses."


class DeadlineExceeded(Rejection):
    """Not even begun: it could not have ended in the time that the client gave."""

    status, close_code, reason, title = 504, 1013, "deadline-exceeded", "Deadline exceeded"
    remedy = "Give the request more time (X-Request-Timeout, in milliseconds)."


class UpstreamUnavailable(Rejection):
    status, close_code, reason, title = 503, 1013, "upstream-unavailable", "Upstream unavailable"
    remedy = "Try again later."


class UpstreamReset(Rejection):
    """The upstream closed its connection before it had answered."""

    status, close_code, reason, title = 502, 1014, "upstream-reset", "Upstream closed the connection"
    remedy = "Try again later; the request may or may not have been carried out."


class InvalidUpstreamResponse(Rejection):
    """The upstream's answer is no valid HTTP/1.x response."""

    status, close_code, reason, title = 502, 1014, "invalid-upstream-response", "Invalid upstream response"
    remedy = "The application behind the proxy has to be mended."


class AnswerWithheld(Rejection):
    """The upstream's answer holds what should not leave it."""

    status, close_code, reason, title = 502, 1014, "answer-withheld", "Answer withheld"
    remedy = "The application behind the proxy has to be mended; the operator finds what it was by the request id."


class UpstreamTimeout(Rejection):
    status, close_code, reason, title = 504, 1014, "upstream-timeout", "Upstream timeout"
    remedy = "Try again later; the request may or may not have been carried out."


class InternalError(Rejection):
    """A defect of the proxy itself: logged with its traceback, told without."""

    status, close_code, reason, title = 500, 1011, "internal-error", "Internal error"
    remedy = "Report it with the request id."
    ends_connection = True
