"""Clusters and fallbacks of a policy, made into what runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from breaker import Consecutive, ErrorRate, OpenTime, Settings, SlowRate
from proxy.listener.fallback import Fallback, StaleStore
from proxy.policy.models.clusters import BreakerModel, ClusterModel, ClusterTlsModel, RetryModel
from proxy.policy.models.listener import ListenerTlsModel
from proxy.policy.models.routes import FallbackModel
from proxy.tls import ClientTls, KeyPair, ServerTls, fingerprint
from proxy.upstream.adaptive import AdaptiveTerms
from proxy.upstream.admission import AdmissionTerms
from proxy.upstream.cluster import Cluster, ClusterSpec
from proxy.upstream.health import HealthTerms
from proxy.upstream.outlier import OutlierTerms
from proxy.upstream.pool import PoolLimits
from proxy.upstream.retry import NO_RETRIES, RetryTerms


def cluster_spec(name: str, model: ClusterModel, workers: int = 1) -> ClusterSpec:
    """For one of so many workers: each has its share of the bounds."""
    times, breaker, retry, outlier, health = model.timeouts, model.breaker, model.retry, model.outlier, model.health
    kinds, statuses = _counted(breaker)
    adaptive, admission = model.adaptive, model.admission
    return ClusterSpec(
        name,
        tuple(model.endpoints),
        model.balance,
        PoolLimits(
            -(-model.max_connections // workers), -(-model.max_waiting // workers), times.wait, times.connect,
            times.idle,
        ),
        max_requests=-(-model.max_requests // workers),
        max_retries=-(-model.max_retries // workers),
        retry=_retry(retry) if retry else NO_RETRIES,
        budget_share=retry.budget if retry else 0.0,
        budget_floor=retry.floor if retry else 0,
        hedge_after=retry.hedge_after if retry and isinstance(retry.hedge_after, float) else 0.0,
        hedge_share=int(retry.hedge_after[1:]) / 100 if retry and isinstance(retry.hedge_after, str) else 0.0,
        breaker=_breaker(breaker) if breaker else None,
        failure_kinds=kinds,
        failure_statuses=statuses,
        shared_quorum=_quorum(breaker),
        outlier=OutlierTerms(
            outlier.consecutive, outlier.interval, outlier.ejection, outlier.longest, outlier.max_ejected,
            outlier.hosts, outlier.requests, outlier.deviations, outlier.mode == "enforce",
        ) if outlier and outlier.mode != "off" else None,
        health=HealthTerms(
            health.path, health.host, health.interval, health.unhealthy_interval, health.timeout, health.healthy,
            health.unhealthy, health.jitter,
        ) if health else None,
        adaptive=AdaptiveTerms(adaptive.least, adaptive.most, adaptive.start, adaptive.buffer, adaptive.window)
        if adaptive
        else None,
        admission=AdmissionTerms(admission.success_rate, admission.within, admission.most, admission.of_at_least)
        if admission
        else None,
        tls=_tls(model.tls) if model.tls else None,
        preamble="" if model.proxy_protocol == "off" else model.proxy_protocol,
        dns_family=model.dns.family,
        dns_refresh=model.dns.refresh,
        panic=model.panic,
        slow_start=model.slow_start,
    )  # fmt: skip


def _tls(model: ClusterTlsModel) -> ClientTls:
    """Raises ValueError where a file is missing."""
    pair = KeyPair(model.certificate.cert, model.certificate.key) if model.certificate else None
    files = [name for name in (model.ca, pair.cert if pair else "", pair.key if pair else "") if name]
    try:
        were = fingerprint(files)
    except OSError as error:
        raise ValueError(f"{error.filename} can't be read: {error.strerror}") from None
    return ClientTls(model.verify, model.ca, model.server_name, pair, model.min_version, were)


def _counted(model: BreakerModel | None) -> tuple[frozenset[str], frozenset[int]]:
    counted = model.count if model else BreakerModel().count
    statuses = {int(one) for one in counted if one.isdigit()}
    if "5xx" in counted:
        statuses.update(range(500, 600))
    return frozenset(one for one in counted if one.isalpha()), frozenset(statuses)


def _quorum(model: BreakerModel | None) -> int:
    if model is None or model.share == "off":
        return 0
    return -1 if model.quorum == "most" else model.quorum


def _breaker(model: BreakerModel) -> Settings:
    row, rate, slow, times = model.consecutive, model.error_rate, model.slow_rate, model.open_for
    return Settings(
        Consecutive(row.failures, row.mode == "enforce") if row and row.mode != "off" else None,
        ErrorRate(rate.above, rate.of_at_least, rate.within, rate.mode == "enforce")
        if rate and rate.mode != "off"
        else None,
        SlowRate(slow.longer_than, slow.above, slow.of_at_least, slow.within, slow.mode == "enforce")
        if slow and slow.mode != "off"
        else None,
        OpenTime(times.first, times.to, times.jitter),
        probes=model.at_once,
        successes=model.probes,
    )


def _retry(model: RetryModel) -> RetryTerms:
    return RetryTerms(
        model.attempts,
        frozenset(one for one in model.on if one.isalpha()),
        frozenset(int(one) for one in model.on if one.isdigit()),
        model.backoff.base,
        model.backoff.max,
        model.longest_wait,
        model.replay,
    )


def fallback_of(model: FallbackModel, clusters: Mapping[str, Cluster], clock: Callable[[], float]) -> Fallback:
    stale, answer = model.stale, model.answer
    return Fallback(
        frozenset(model.on),
        clusters[model.to] if model.to else None,
        StaleStore(stale.longest, stale.max_body, stale.size, clock) if stale else None,
        (answer.status, answer.media_type.encode(), answer.body.encode()) if answer else None,
    )


def server_tls(model: ListenerTlsModel | None) -> ServerTls | None:
    if model is None:
        return None
    pairs = tuple(KeyPair(one.cert, one.key) for one in model.certificates)
    client = model.client
    return ServerTls(pairs, model.min_version, client.ca if client else "", client.require if client else True)
