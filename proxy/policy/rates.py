"""Rates as a policy writes them: `100/15m`, `100/minute`, `10/1s, 50/10s`; the vocabulary is that of `limits`."""

from __future__ import annotations

import re

import limits

_SHORT = re.compile(r"(\d+)\s*/\s*(\d*)\s*([smhd])")
_WORDS = {"s": "second", "m": "minute", "h": "hour", "d": "day"}

Rate = tuple[int, int]
"""Amount, and window in milliseconds."""


def rates(value: object) -> list[Rate]:
    """Raises ValueError that says how a rate is written."""
    texts = value if isinstance(value, list) else [value]
    found = [_rate(part.strip(), value) for text in texts for part in re.split(r"[,;]", str(text)) if part.strip()]
    if not found:
        raise ValueError(_hint(value))
    if len({window for _, window in found}) != len(found):
        raise ValueError(f'"{value}" has the same period twice. Keep the smaller count')
    return found


def _rate(text: str, whole: object) -> Rate:
    short = _SHORT.fullmatch(text)
    if short:
        text = f"{short[1]}/{short[2] or 1} {_WORDS[short[3]]}"
    try:
        item = limits.parse(text)
    except ValueError:
        raise ValueError(_hint(whole)) from None
    if item.amount < 1 or item.get_expiry() < 1:
        raise ValueError(_hint(whole))
    return item.amount, item.get_expiry() * 1000


def _hint(value: object) -> str:
    return f'"{value}" is not a rate. Write COUNT/PERIOD with s, m, h or d: 100/15m'
