"""What has to hold whatever breaks, checked over a recorded history. Each gives an empty text where it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from chaos.history import ANSWERED, HUNG, History, Request
from chaos.scenario import Scenario

DEADLINE = 10.0
"""The policy's 8 s for an exchange, the listener's sweep, and a busy machine."""
LIMIT = 20
"""Of the policy's rule `limited`, a second."""
WINDOW = 3
GROWTH_MIB, GROWTH_FILES = 40.0, 40
Check = Callable[[History, Scenario], str]


def answered_in_time(history: History, scenario: Scenario) -> str:
    """Every client gets an answer or a closed connection within its deadline."""
    late = [one for one in history.requests if one.outcome == HUNG or one.took > DEADLINE]
    if scenario.expect.client_links:
        late = [one for one in late if one.pod not in _broken_clients(scenario)]
    return f"{len(late)} of {len(history.requests)} had no end within {DEADLINE:g} s: {_some(late)}" if late else ""


def _broken_clients(scenario: Scenario) -> set[str]:
    return {link.removeprefix("client-") for fault in scenario.faults for link in fault.links if "client-" in link}


def writes_kept(history: History, scenario: Scenario) -> str:
    """No acknowledged write is lost."""
    acked = [one.key for one in history.requests if one.load == "writes" and one.status == 201]
    lost = [key for key in acked if key not in history.stored]
    return f"{len(lost)} of {len(acked)} acknowledged writes are not in the database: {lost[:3]}" if lost else ""


def executed_once(history: History, scenario: Scenario) -> str:
    """No write is executed twice. Customers' addresses are unique, so 409 tells of a second; opportunities aren't."""
    twice = [key for key, count in history.stored.items() if count > 1]
    twice += [one.key for one in history.requests if one.load == "writes" and one.status == 409]
    return f"{len(twice)} writes were executed more than once: {twice[:3]}" if twice else ""


def attacks_kept_out(history: History, scenario: Scenario) -> str:
    """No request or message of a refused kind reaches the application."""
    stored = [key for key in history.stored if "-attack" in key]
    passed = [
        one for one in history.requests
        if one.load in ("attacks", "refused messages") and one.outcome == ANSWERED and not _by_proxy(one)
    ]  # fmt: skip
    if stored or passed:
        return f"{len(stored)} attacks were stored, {len(passed)} answered by the application: {_some(passed)}"
    return ""


def _by_proxy(one: Request) -> bool:
    """Refused by the rule, or before it was asked."""
    return one.good or (bool(one.rule) and one.status >= 400)


def within_limit(history: History, scenario: Scenario) -> str:
    """What all pods admit together stays within the limit, and what a change between store and sidecar may add."""
    times = sorted(
        one.at for one in history.requests if one.load == "limited" and one.outcome == ANSWERED and one.status == 200
    )
    begin, end = history.fault
    first = 0
    for last, at in enumerate(times):
        while times[first] <= at - WINDOW:
            first += 1
        shaken = at >= begin - 0.5 and times[first] <= end + 6
        most = LIMIT * (WINDOW + 1) * (2 if shaken else 1)
        if last - first + 1 > most:
            return f"{last - first + 1} were admitted in {WINDOW} s at {at:.1f} s; at most {most} may be"
    return ""


def headers_everywhere(history: History, scenario: Scenario) -> str:
    """The security headers are on every answer, our own too."""
    bare = [one for one in history.requests if one.outcome == ANSWERED and one.status and not one.headers]
    return f"{len(bare)} answers lack security headers: {_some(bare)}" if bare else ""


def leases_given_back(history: History, scenario: Scenario) -> str:
    """What runs at once is counted down again: four clients never fill twelve places."""
    full = [one for one in history.requests if one.load == "slots" and one.status == 429]
    return f"{len(full)} were refused though places were free: {_some(full)}" if full else ""


def messages_in_sequence(history: History, scenario: Scenario) -> str:
    """Each receiver has each acknowledged message once and in order, or was told that some may be missing.

    One that nobody acknowledged may come late, or never.
    """
    problems = []
    acked = {number for number, what in history.sent.items() if what == "acked"}
    for pod in sorted({one.pod for one in history.heard}):
        seen: list[int] = []
        holes: set[int] = set()
        told = 0
        for one in history.heard:
            if one.pod != pod:
                continue
            if one.number < 0:
                told += 1
                holes.add(seen[-1] if seen else 0)
                continue
            if one.number in acked and seen and one.number <= max(seen):
                problems.append(f"{pod}: {one.number} came after {max(seen)}")
            seen.append(one.number)
        missing = sorted(acked - set(seen))
        excused = {number for number in missing if any(_next_to(number, hole, seen) for hole in holes)}
        lost = [number for number in missing if number not in excused]
        if lost and not scenario.expect.messages_lost:
            problems.append(f"{pod}: {len(lost)} acknowledged messages never came ({lost[:5]})")
    return "; ".join(problems[:4])


def _next_to(number: int, hole: int, seen: list[int]) -> bool:
    """Whether a missing message lies in the gap that was told of after `hole`."""
    after = next((one for one in seen if one > hole), None)
    return number > hole and (after is None or number < after)


def breakers(history: History, scenario: Scenario) -> str:
    """They open and close within their stated times."""
    expected = scenario.expect.breaker
    begin, end = history.fault
    problems = []
    for pod in expected.pods if expected else ():
        states = [(one.at, one.breaker) for one in history.samples if one.pod == pod]
        opened = next((at for at, state in states if at >= begin and state == "open"), None)
        if expected and expected.never and opened is not None:
            problems.append(f"{pod} opened at {opened - begin:.1f} s, and never should")
        elif expected and expected.opens is not None and (opened is None or opened - begin > expected.opens):
            when = "never" if opened is None else f"after {opened - begin:.1f} s"
            problems.append(f"{pod} opened {when}, not within {expected.opens:g} s")
    closes = expected.closes if expected else scenario.expect.recovered
    for pod in sorted({one.pod for one in history.samples}):
        late = [one for one in history.samples if one.pod == pod and one.at > end + closes and one.breaker != "closed"]
        if late:
            problems.append(f"{pod} was {late[0].breaker} {late[0].at - end:.1f} s after the fault")
    return "; ".join(problems)


def errors_bounded(history: History, scenario: Scenario) -> str:
    """Of the loads that the fault does not concern, no more than the stated share fails."""
    begin, end = history.fault
    problems = []
    for load, most in scenario.expect.errors.items():
        during = [one for one in history.requests if one.load == load and begin <= one.at < end]
        bad = [one for one in during if not one.good]
        if not during:
            problems.append(f"{load}: nothing was asked")
        elif len(bad) > most * len(during):
            problems.append(f"{load}: {len(bad)} of {len(during)} failed, at most {most:.0%} may ({_some(bad)})")
    if scenario.expect.closed_refuses:
        problems += _closed(history, begin, end)
    return "; ".join(problems)


def _closed(history: History, begin: float, end: float) -> list[str]:
    """A rule that is closed without its store admits nothing once the sidecar has noticed."""
    asked = [one for one in history.requests if one.load == "closed" and begin + 2 <= one.at < end - 0.5]
    passed = [one for one in asked if one.status == 200]
    if not asked:
        return ["closed: nothing was asked"]
    return [f"closed: {len(passed)} of {len(asked)} were admitted while nobody could count"] if passed else []


def recovered(history: History, scenario: Scenario) -> str:
    """Every load succeeds again within the stated time after the fault."""
    start = history.fault[1] + scenario.expect.recovered
    bad = [one for one in history.requests if one.at > start and not one.good]
    if scenario.expect.signed_out:
        bad = [one for one in bad if one.status != 401]
    after = [one for one in history.requests if one.at > start]
    if not after:
        return "nothing was asked after the recovery"
    by_load = Counter(one.load for one in bad)
    return f"{len(bad)} of {len(after)} still failed: {dict(by_load)} ({_some(bad)})" if bad else ""


def calm_before(history: History, scenario: Scenario) -> str:
    """Nothing fails before anything is broken: else the rest says nothing."""
    bad = [one for one in history.requests if one.at + one.took < history.fault[0] and not one.good]
    return f"{len(bad)} failed before the fault: {_some(bad)}" if bad else ""


def resources_back(history: History, scenario: Scenario) -> str:
    """Memory and files of the sidecars are back where they were; those that were started anew have no before."""
    problems = []
    anew = {name for fault in scenario.faults for name in (*fault.kill, *fault.restart, *fault.full_log)}
    for pod in sorted({one.pod for one in history.samples}):
        if f"proxy-{pod}" in anew:
            continue
        rows = [one for one in history.samples if one.pod == pod]
        before = [one for one in rows if one.at < history.fault[0]]
        after = [one for one in rows if one.at > history.fault[1] + scenario.expect.recovered]
        if not before or not after:
            problems.append(f"{pod}: no samples")
            continue
        grown = after[-1].rss_mib - before[-1].rss_mib
        files = after[-1].files - before[-1].files
        if grown > GROWTH_MIB or files > GROWTH_FILES:
            problems.append(f"{pod}: {grown:+.0f} MiB, {files:+d} files")
    return "; ".join(problems)


ALWAYS: dict[str, Check] = {
    "calm before": calm_before,
    "answered in time": answered_in_time,
    "writes kept": writes_kept,
    "executed once": executed_once,
    "within limit": within_limit,
    "leases": leases_given_back,
    "headers": headers_everywhere,
    "attacks kept out": attacks_kept_out,
    "sequence": messages_in_sequence,
    "breakers": breakers,
    "errors bounded": errors_bounded,
    "recovered": recovered,
    "resources": resources_back,
}


def _some(requests: list[Request]) -> str:
    """What they were, the most frequent first."""
    kinds = Counter(f"{one.load} {one.status or one.outcome}{f' {one.rule}' if one.rule else ''}" for one in requests)
    return ", ".join(f"{count}x {kind}" for kind, count in kinds.most_common(3))
