"""The report's environment switches: each turns off what it names, whatever the file says."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.policy.model import Policy, PolicySet
from proxy.policy.models.base import RuleModel

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
RULES = {"SECURITY_HEADERS_ENABLED": ("security_headers",), "RATE_LIMIT_ENABLED": ("limits", "bans")}
"""Switch and what of a policy set it governs; `limits` are a route's too."""


def flag(name: str, environment: Mapping[str, str]) -> bool:
    """Whether the switch is on; unset is on. Raises ValueError where it is neither on nor off."""
    value = environment.get(name, "").strip().lower()
    if not value or value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise ValueError(f"{name} is neither true nor false")


def apply(policy: Policy, environment: Mapping[str, str]) -> Policy:
    """The policy with the rules switched off that the environment switches off."""
    off = [rule for switch, rules in RULES.items() if not flag(switch, environment) for rule in rules]
    if not off:
        return policy
    update: dict[str, object] = {
        "policies": {name: _without(chosen, off) for name, chosen in policy.policies.items()},
    }
    if "limits" in off:
        update["routes"] = {name: route.model_copy(update={"limits": {}}) for name, route in policy.routes.items()}
    return policy.model_copy(update=update)


def _without(chosen: PolicySet, off: list[str]) -> PolicySet:
    changed: dict[str, object] = {"limits": {}} if "limits" in off else {}
    for rule in off:
        model = getattr(chosen, rule)
        if isinstance(model, RuleModel):
            changed[rule] = model.model_copy(update={"mode": "off"})
    return chosen.model_copy(update=changed)
