"""Who may come at all, by client address: `deny` first, then `allow` where it is not empty."""

from __future__ import annotations

from proxy.addresses import Networks
from proxy.exchange import Exchange
from proxy.filter import Rule, RuleFilter
from proxy.rejection import Forbidden


class IpAccess(RuleFilter):
    __slots__ = ("_allow", "_deny")

    def __init__(self, rule: Rule, allow: Networks, deny: Networks) -> None:
        super().__init__(rule)
        self._allow = allow
        self._deny = deny

    def on_request(self, exchange: Exchange) -> None:
        client = exchange.client
        if client in self._deny or (not self._allow.empty and client not in self._allow):
            self._rule.refuse(
                exchange, Forbidden("this client address has no access", remedy="Ask the operator to allow it.")
            )
