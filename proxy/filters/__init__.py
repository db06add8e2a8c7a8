"""The policies, in the order in which they run; YAML switches them on and parameterises, and can't reorder them."""

from proxy.filters.bans import Bans, UserBans
from proxy.filters.cors import Cors
from proxy.filters.identity import Identity
from proxy.filters.inspection import Inspection
from proxy.filters.ip_access import IpAccess
from proxy.filters.request_id import RequestId
from proxy.filters.request_limits import RequestLimits
from proxy.filters.sanitization import BodySanitization, Sanitization
from proxy.filters.security_headers import SecurityHeaders
from proxy.filters.throttle import Throttle
from proxy.filters.websocket import WebSocketAccess

ORDER = (
    RequestId, SecurityHeaders, IpAccess, Bans, Cors, WebSocketAccess, Identity, UserBans, Throttle, RequestLimits,
    Sanitization, BodySanitization, Inspection,
)  # fmt: skip

__all__ = [
    "ORDER",
    "Bans",
    "BodySanitization",
    "Cors",
    "Identity",
    "Inspection",
    "IpAccess",
    "RequestId",
    "RequestLimits",
    "Sanitization",
    "SecurityHeaders",
    "Throttle",
    "UserBans",
    "WebSocketAccess",
]
