"""How charges and settlements travel to the store's scripts, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import sha1

from proxy.throttle.charge import Charge, Decision, Outcome, Settlement, Strategy
from proxy.throttle.link import pack
from proxy.throttle.script import DECIDE, RENEW, SETTLE

SCRIPTS = {"decide": DECIDE, "settle": SETTLE, "renew": RENEW}
_SHA = {name: sha1(script.encode(), usedforsecurity=False).hexdigest() for name, script in SCRIPTS.items()}


def decide_command(prefix: str, charges: Sequence[Charge], reservation: str, *, whole: bool = False) -> bytes:
    """The script's call; what of it recurs with a charge is kept on the charge. `whole` sends the script, too."""
    keys: list[bytes] = []
    arguments: list[bytes] = []
    for charge in charges:
        wire = charge.wire
        if wire is None:
            wire = charge.wire = _wire(prefix, charge)
        keys.append(wire[0])
        arguments.append(wire[1])
    told = _NO_RESERVATION if reservation == "-" else b"$2\r\n-1\r\n" + _bulk(reservation)
    return b"".join([_decide_head(len(charges), whole), *keys, told, *arguments])


@cache
def _decide_head(count: int, whole: bool) -> bytes:
    script = b"$4\r\nEVAL\r\n" + _bulk(DECIDE) if whole else b"$7\r\nEVALSHA\r\n" + _bulk(_SHA["decide"])
    return b"*%d\r\n%b%b" % (5 + 8 * count, script, _bulk(2 * count))


def _wire(prefix: str, charge: Charge) -> tuple[bytes, bytes]:
    """Where nothing is held the counter's key stands twice: a migrating slot answers only for keys that exist."""
    quota = charge.quota
    key = f"{prefix}:{charge.key}"
    flags = charge.holds + 2 * quota.shadow
    arguments = (int(quota.strategy), quota.amount, quota.window, charge.cost, flags, quota.lease)
    return _bulk(key) + _bulk(key + ":r" if charge.holds else key), b"".join([_bulk(one) for one in arguments])


def decision_of(reply: list[int]) -> Decision:
    outcomes = tuple([Outcome(reply[at] == 1, *reply[at + 1 : at + 4]) for at in range(1, len(reply), 4)])
    return Decision(reply[0] == 1, outcomes, "redis")


def settle_command(
    prefix: str, settlements: Sequence[Settlement], reservation: str, *, merge: bool = False, whole: bool = False
) -> bytes:
    """`merge` takes what nobody reserved, once for each `reservation`."""
    keys: list[str] = []
    arguments: list[bytes | str | int] = [-1, reservation, "merge" if merge else "settle"]
    for charge, taken in settlements:
        key = f"{prefix}:{charge.key}"
        keys += (key, f"{key}:m:{reservation}" if merge else f"{key}:r")
        quota = charge.quota
        taken = 0 if quota.strategy is Strategy.CONCURRENT else taken
        arguments += (int(quota.strategy), quota.amount, quota.window, charge.cost, taken)
    called = ("EVAL", SETTLE) if whole else ("EVALSHA", _SHA["settle"])
    return pack(*called, len(keys), *keys, *arguments)


def renew_command(prefix: str, charges: Sequence[Charge], reservation: str, *, whole: bool = False) -> bytes:
    keys = [f"{prefix}:{charge.key}:r" for charge in charges]
    terms = [term for charge in charges for term in (charge.cost, charge.quota.lease)]
    called = ("EVAL", RENEW) if whole else ("EVALSHA", _SHA["renew"])
    return pack(*called, len(keys), *keys, reservation, *terms)


def _bulk(value: str | bytes | int) -> bytes:
    """RESP's bulk string."""
    data = value if isinstance(value, bytes) else str(value).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


_NO_RESERVATION = b"$2\r\n-1\r\n" + _bulk("-")
