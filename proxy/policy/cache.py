"""A policy's cache rules, made into what runs."""

from __future__ import annotations

from proxy.cache.freshness import Terms
from proxy.cache.terms import CREDENTIALS, EdgeTerms, KeyTerms
from proxy.policy.models.cache import CacheModel


def edge_terms(model: CacheModel, api_key: str) -> EdgeTerms:
    """`api_key` is the field that the policy knows API keys by; empty where it knows none."""
    key = model.key
    return EdgeTerms(
        KeyTerms(
            parameters=None if key.query == "all" else frozenset(one.encode() for one in key.query),
            headers=tuple(sorted(one.lower().encode() for one in key.headers)),
            cookies=None if key.cookies is None else tuple(sorted(one.encode() for one in key.cookies)),
            user=key.user,
            claims=tuple(sorted(key.claims)),
            api_key=api_key.lower().encode(),
            credentials=CREDENTIALS | ({api_key.lower().encode()} if api_key else set()),
        ),
        Terms(
            targets=tuple(one.lower().encode() for one in model.targets),
            heuristic=model.heuristic,
            negative=tuple(model.negative.items()),
            longest=model.longest,
            stale=model.stale_while_revalidate or 0.0,
            errors=model.stale_if_error or 0.0,
        ),
        strips=model.unkeyed == "strip",
        honours=model.client_control,
        wait=model.wait,
        max_body=model.max_body,
    )
