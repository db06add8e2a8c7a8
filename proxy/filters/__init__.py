"""The policies, in the order in which they run; YAML switches them on and parameterises, and can't reorder them."""

from proxy.filters.answers import AnswerInspection
from proxy.filters.bans import Bans, UserBans
from proxy.filters.contract import ContractCheck
from proxy.filters.cookies import Cookies
from proxy.filters.cors import Cors
from proxy.filters.identity import Identity
from proxy.filters.inspection import Inspection, LearningInspection
from proxy.filters.ip_access import IpAccess
from proxy.filters.request_id import RequestId
from proxy.filters.request_limits import RequestLimits
from proxy.filters.sanitization import BodySanitization, Sanitization
from proxy.filters.security_headers import SecurityHeaders
from proxy.filters.throttle import Throttle
from proxy.filters.websocket import WebSocketAccess

ORDER = (
    RequestId, SecurityHeaders, IpAccess, Bans, Cors, WebSocketAccess, Identity, UserBans, Throttle, RequestLimits,
    Sanitization, BodySanitization, ContractCheck, Inspection, LearningInspection,
    AnswerInspection, Cookies,
)  # fmt: skip

__all__ = [
    "ORDER",
    "AnswerInspection",
    "Bans",
    "BodySanitization",
    "ContractCheck",
    "Cookies",
    "Cors",
    "Identity",
    "Inspection",
    "IpAccess",
    "LearningInspection",
    "RequestId",
    "RequestLimits",
    "Sanitization",
    "SecurityHeaders",
    "Throttle",
    "UserBans",
    "WebSocketAccess",
]
