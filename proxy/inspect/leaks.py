"""What an answer should not say: secrets, traces of a failure, and what a request said, as markup again."""

from __future__ import annotations

import html
import re
import zlib
from collections.abc import Sequence

import re2

from proxy.inspect.parts import pairs

SECRETS: tuple[tuple[str, str], ...] = (
    ("secret.private-key", r"-----BEGIN (?:[A-Z0-9]{2,12} )?PRIVATE KEY-----"),
    ("secret.aws-key", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    ("secret.github-token", r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22,})"),
    ("secret.slack-token", r"\bxox[abeoprs]-[0-9A-Za-z-]{20,}"),
    ("secret.google-key", r"\bAIza[0-9A-Za-z_-]{35}"),
    ("secret.stripe-key", r"\b[rs]k_live_[0-9A-Za-z]{20,}"),
    (
        "secret.url-password",
        r"\b(?:mongodb(?:\+srv)?|postgres(?:ql)?|mysql|rediss?|amqps?)://[^\s:@/\"'<>]*:[^\s@/\"'<>]+@",
    ),
    ("secret.password-hash", r"\$2[abxy]\$\d\d\$[./A-Za-z0-9]{53}|\$argon2(?:id|i|d)\$v=\d+\$m=\d+"),
)
"""Each by the form that its issuer gives it: RFC 7468, and the formats that secret scanners go by."""
TRACES: tuple[tuple[str, str], ...] = (
    ("trace.python", r"Traceback \(most recent call last\):|\bFile \\?\"[^\"\n]{1,200}\\?\", line \d+, in \w"),
    ("trace.java", r"\bat (?:[\w$]+\.)+[\w$<>]+\((?:[\w$]+\.(?:java|kt|scala):\d+|Native Method|Unknown Source)\)"),
    ("trace.node", r"\bat (?:[\w.<>$ \[\]]{1,100} \()?(?:file://|node:)?[\w./\\@-]{2,200}\.[cm]?[jt]s:\d+:\d+\)?"),
    ("trace.dotnet", r"\bat [\w.`<>\[\]]{3,200}\([^)\n]{0,200}\) in [^\n]{1,200}:line \d+"),
    (
        "trace.php",
        r"(?:Fatal error|Uncaught \w+|Warning|Parse error)(?:</b>)?: .{1,300} in (?:<b>)?/?[\w./\\-]+\.php"
        r"(?:</b>)?(?: on line |:)",
    ),
    ("trace.go", r"\bgoroutine \d+ \[[a-z ]{3,30}\]:|\bpanic: runtime error:"),
    ("trace.ruby", r"[\w./-]+\.rb:\d+:in [`'][^'`\n]{1,100}'"),
    (
        "trace.sql",
        r"You have an error in your SQL syntax|\bORA-\d{5}: |\bSQLSTATE\[\w{5}\]|\bpsycopg2?\.errors\."
        r"|\bPG::[A-Z]\w+Error|Unclosed quotation mark after the character string"
        r"|SQLITE_ERROR: |sqlite3\.OperationalError",
    ),
    ("trace.mongo", r"\b(?:MongoServerError|MongoBulkWriteError|MongoNetworkError): |\bpymongo\.errors\.\w+"),
    ("trace.paths", r"<title>Index of /|<title>Directory listing for /"),
)  # fmt: skip
KINDS = {"secrets": SECRETS, "traces": TRACES}
_MARKUP = re.compile(r"<[a-z!/?]|[\"'][^\"']{0,100}\bon[a-z]{3,20}\s*=|javascript:", re.I)
MAX_VALUES = 50


class LeakDetector:
    """Which of the named kinds an answer holds; linear in its length (RE2)."""

    __slots__ = ("_found", "_names")

    def __init__(self, kinds: Sequence[str]) -> None:
        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1
        options.log_errors = False
        self._found = re2.Set.SearchSet(options)
        self._names: list[str] = []
        for kind in kinds:
            for name, pattern in KINDS[kind]:
                self._found.Add(pattern)
                self._names.append(name)
        self._found.Compile()

    def find(self, text: bytes) -> list[str]:
        return sorted(self._names[index] for index in self._found.Match(text) or ())


def inflated_start(encoding: bytes, data: bytes, most: int) -> bytes:
    """As much as can be read of the start of a body; empty where its coding is not known."""
    if encoding in (b"", b"identity"):
        return data
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        return b""
    try:
        return zlib.decompressobj(47 if encoding != b"deflate" or data[:1] == b"\x78" else -15).decompress(data, most)
    except zlib.error:
        return b""


def dangerous(query: bytes) -> list[str]:
    """The values of a query that would be markup or script where a page repeats them as they are."""
    if b"=" not in query:
        return []
    found = [value for _, value in pairs(query.decode("latin-1").removeprefix("?")) if _MARKUP.search(value)]
    return sorted(set(found), key=len, reverse=True)[:MAX_VALUES]


def repeated(values: Sequence[str], body: bytes) -> list[bytes]:
    """Those that a body holds as they are, unescaped."""
    return [raw for value in values if (raw := value.encode("utf-8", "replace")) in body]


def escaped(body: bytes, values: Sequence[bytes]) -> bytes:
    """The body with these as text instead of markup."""
    for value in values:
        body = body.replace(value, html.escape(value.decode("utf-8", "replace")).encode())
    return body
