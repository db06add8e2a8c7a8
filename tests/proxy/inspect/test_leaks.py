"""Secrets and traces are known by their forms, and honest text is not taken for them."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.inspect.leaks import LeakDetector, dangerous, escaped, inflated_start, repeated

DETECTOR = LeakDetector(["secrets", "traces"])
A36 = "a1B2" * 9
LEAKY = {
    "secret.private-key": "-----BEGIN RSA PRIVATE KEY-----\nMIIE",
    "secret.aws-key": "key AKIAIOSFODNN7EXAMPLE.",
    "secret.github-token": f"ghp_{A36}",
    "secret.slack-token": "xoxb-123456789012-abcdefghijkl",
    "secret.google-key": "AIza" + "SyD-9_" * 5 + "abcde",
    "secret.stripe-key": "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "secret.url-password": '{"uri": "mongodb://app:hunter2@db:27017/x"}',
    "secret.password-hash": "$2b$12$" + "N9qo8uLOickgx2ZMRZoMye" + "IjZAgcfl7p92ldGxad68LJZdL17lhWy"[:31],
    "trace.python": 'Traceback (most recent call last):\n  File "/app/x.py", line 3, in f',
    "trace.java": "java.lang.IllegalStateException\n\tat com.example.Foo.bar(Foo.java:42)",
    "trace.node": "TypeError: x\n    at Object.<anonymous> (/app/server.js:10:5)",
    "trace.dotnet": "   at App.Program.Main(String[] args) in /src/Program.cs:line 12",
    "trace.php": "<b>Fatal error</b>: Uncaught Exception: x in <b>/var/www/index.php</b> on line 3",
    "trace.go": "panic: runtime error: index out of range\n\ngoroutine 1 [running]:\nmain.main()",
    "trace.ruby": "app/models/user.rb:12:in `save'",
    "trace.sql": "You have an error in your SQL syntax; check the manual",
    "trace.mongo": "MongoServerError: E11000 duplicate key",
    "trace.paths": "<html><head><title>Index of /backup</title>",
}
HONEST = (
    "Please meet us at 12:30:45 in Main Street (line 3 of the bus).",
    "https://user.example.com:8080/path@2x.png and redis://cache:6379/0",
    "The traceback shows that the call at the depot was in time.",
    '{"file": "move.js", "line": 10, "text": "an error in your order"}',
    "Warning: the road is closed in Springfield on line 3",
    "postgres://db:5432/app, see the docs",
    "the public key: -----BEGIN PUBLIC KEY-----",
    "AKIA is a prefix; sk_test_4eC39HqLyjWDarjtT1zdp7dc is for tests",
)


@pytest.mark.parametrize("name", LEAKY)
def test_each_kind_is_found(name: str) -> None:
    assert name in DETECTOR.find(LEAKY[name].encode())
    kind = name.partition(".")[0] + "s"
    other = LeakDetector([one for one in ("secrets", "traces") if one != kind])
    assert name not in other.find(LEAKY[name].encode())


@pytest.mark.parametrize("text", HONEST, ids=range(len(HONEST)))
def test_honest_text(text: str) -> None:
    assert DETECTOR.find(text.encode()) == []


def test_compressed_answers_are_read_as_far_as_asked() -> None:
    text = b"x" * 100_000
    assert inflated_start(b"gzip", gzip.compress(text)[:60], 1000) == b"x" * len(
        inflated_start(b"gzip", gzip.compress(text)[:60], 1000)
    )
    assert len(inflated_start(b"gzip", gzip.compress(text), 1000)) == 1000
    assert inflated_start(b"deflate", zlib.compress(b"abc"), 10) == b"abc"
    assert inflated_start(b"br", b"abc", 10) == inflated_start(b"gzip", b"no gzip", 10) == b""


@pytest.mark.parametrize(
    ("query", "values"),
    [
        (b"?q=%3Cscript%3Ealert(1)%3C/script%3E", ["<script>alert(1)</script>"]),
        (b'?q="+onmouseover=alert(1)&r=1', ['" onmouseover=alert(1)']),
        (b"?next=javascript:alert(1)", ["javascript:alert(1)"]),
        (b"?q=a+%3C+b&r=5%25", []),
        (b"", []),
    ],
)
def test_what_is_dangerous_to_repeat(query: bytes, values: list[str]) -> None:
    assert dangerous(query) == values


@given(st.text(max_size=60), st.text(max_size=60))
def test_escaping_leaves_none_of_it(before: str, after: str) -> None:
    value = "<img src=x onerror=alert(1)>"
    page = (before + value + after).encode("utf-8", "replace")
    found = repeated([value], page)
    assert found == [value.encode()]
    assert repeated([value], escaped(page, found)) == []
