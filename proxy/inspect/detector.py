"""How much a value looks like an attack: signatures and libinjection over what it decodes to, as scored findings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import libinjection
import re2

from proxy.inspect.decoding import canonical, from_base64, squeezed, unquoted, without_comments
from proxy.inspect.signature import SHORT, Signature
from proxy.inspect.signatures import SIGNATURES

MAX_VALUE = 1024 * 1024
TOKENIZED_MOST = 16 * 1024
"""Of a longer value libinjection is asked about both ends, half as much each: it holds the interpreter meanwhile."""
TOGETHER_MOST = 64
"""Characters to which one set of all patterns is quickest; past it the sets of `GROUPS` are, since one set of many
patterns has states without end on hostile text."""
SERIALIZED = ("rO0AB", "gASV", "AAEAAAD")
"""How serialized objects of Java, Python and .NET begin in Base64."""
AFTER = " " * 32
"""libinjection's HTML parser reads past the end of what it is given; it finds this there."""
HARMLESS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _.,-+:@/?~"
"""What alone can't break out of anything; words are still looked at."""
_BASE64_FROM = 8
SQL_START, SQL_WORDS, SPLIT = "hint.sql-start", "hint.sql-words", "hint.split"
_WORDS = (
    r"\b(?:select|union|insert|update|delete|drop|from|where|and|or|xor|like|sleep|benchmark|waitfor|having|order|exec"
    r"|declare|null|true|false|in|is|not|between|limit|case|concat|char|ascii|substr|if|div|mod|rlike|regexp|sounds)\b"
)
HINTS = (
    Signature(
        SQL_START, "hint", 0,
        r"\bunion\b.*\bselect\b|^\W*\d+\W*(?:or|and|having|order|group|xor|div|like)\b|\bselect\b.+\bfrom\b|--",
    ),
    Signature(
        SQL_WORDS, "hint", 0,
        r"(?:['\"`]|^[\s(@+\-!~]*\d|^\s*[@(]).*(?:" + _WORDS + r"|\|\||&&|=|--|#|/\*|;)"
        r"|(?:" + _WORDS + r"|\|\||&&|=|--|#|/\*|;).*['\"`]"
        r"|\b(?:select|union|insert|update|delete|drop|exec|declare|waitfor|case)\b|/\*",
    ),
    Signature(SPLIT, "hint", 0, r"[\w/]['\"\\^][\w/.]*['\"\\^][\w/]|/\w*['\"\\^]\w|\w[\\^]\w|\w(?:''|\"\")\w|\$[@*]"),
)  # fmt: skip
"""Not of attacks: they tell, in the one pass, what else is worth a look (libinjection; words as a shell joins them)."""
GROUPS = {"hint": "hint", "sql": "sql", "xss": "xss", "template": "template", "command": "shell", "traversal": "shell"}
_TAG = re.compile(r"<[^<>]*>")
_VOID = re.compile(r"javascript:\s*(?:void\s*\(?\s*0?\s*\)?|;|#|//)\s*;?")
_HTML_DOCTYPE = re.compile(r"<!doctype\s+html(?:\s+public\s+\"-//(?:w3c|ietf)//[^>]*)?>")
_STRONG_SQL = re.compile(r"X|[UETB].|^[s1]\)?[&o;k].{2,}|^[s1]&[1s(f]|[)k&;]c$")
_WEAK_SQL = re.compile(
    r"^(?:s?n?c|[1snfvo]c|s[&o]s|so[sn1]|[1n][&o]n|s[&o]n|sns.*|s&sn|sn&s|ns&s|s&so?|1os|1so|so1|1o[1n]|1&1|nc|.?n[&o].*)$"
)
"""Fingerprints that a sentence has as easily as an injection; they count less."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`name` is a signature's; `layers` how often the value had to be decoded."""

    name: str
    kind: str
    score: float
    layers: int = 0


_PROTOTYPE = Finding("node.prototype", "node", 5)
_PROTOTYPES = re.compile(r"__proto__|constructor[.\[\]]+prototype")
_OPERATOR = re.compile(
    r"^\$(?:where|ne|eq|gte?|lte?|n?in|regex|or|and|not|nor|exists|expr|function|elemMatch|mod|all|jsonSchema|accumulator"
    r"|lookup|out|merge)$"
    r"|\[\$(?:where|ne|eq|gte?|lte?|n?in|regex|or|and|not|nor|exists|expr|elemMatch|mod|all|type|size)\]"
    r"|\.\$(?:where|ne|gte?|lte?|n?in|regex|exists)$"
)


class Detector:
    """For one paranoia level; immutable, so all routes of that level share one."""

    def __init__(self, level: int = 1) -> None:
        self.level = level
        known = (*HINTS, *(one for one in SIGNATURES if one.level <= level))
        self._all = Patterns(known)
        self._lines = Patterns([one for one in known if one.name != "crlf.raw"], "(?m)")
        self._squeezed = Patterns([one for one in known if one.name in ("xss.scheme", "xss.handler", "xss.script")])
        self._torn = Patterns([one for one in known if one.name in ("xss.breakout", "xss.attribute")])
        self._shell = Patterns([one for one in known if one.kind in ("command", "traversal")])
        self._prose_from = {1: 12, 2: 30}.get(level, 10**9)

    def look(self, value: str, place: str) -> list[Finding]:
        """What is found in a value that was decoded once, as its place has it."""
        if value.isascii() and value.isalnum() and place != "agent":
            if value.startswith(SERIALIZED):
                return [Finding("java.object", "java", 5)]
            hidden = from_base64(value) if len(value) >= _BASE64_FROM else None
            return self._look_deeper(hidden, place) if hidden is not None else []
        left = value.encode("utf-8", "surrogatepass").translate(None, HARMLESS)
        if left or place == "agent":
            if len(left) <= 2 and left in (b"=", b"==") and (hidden := from_base64(value)) is not None:
                return self._look_deeper(hidden, place)
            return self._look(value, place)
        if len(value) >= _BASE64_FROM and (hidden := from_base64(value)) is not None:
            return self._look_deeper(hidden, place)
        text = value.lower()
        found = self._all.search(text, place)
        findings = [Finding(one.name, one.kind, one.score) for one in found.values() if one.score]
        if SQL_START in found:
            findings += self._injected(text, place, 0, prose=self._is_prose(text, place), known=set())
        return findings

    def harmless(self, values: list[str]) -> bool:
        """Whether nothing can be found in any of these, by one look at all of them as lines.

        Not for places in which a line's end itself is a finding (crlf.raw). A line's beginning and end count as a
        value's, so this finds at least what `look` would; what it finds may be nothing, then `look` tells.
        """
        if any(
            one.startswith(SERIALIZED) or from_base64(one) is not None for one in values if len(one) >= _BASE64_FROM
        ):
            return False
        text, _ = canonical("\n".join(values))
        return not any(one in text for one in ("<", "/*", "script")) and not self._lines.matches(text)

    def look_at_name(self, name: str, place: str) -> list[Finding]:
        """A parameter's or a member's name: an operator there is one, whatever its value says."""
        if name.isascii() and (name.isalnum() or name.replace("_", "").replace("-", "").isalnum()):
            return [_PROTOTYPE] if name == "__proto__" else []
        if _OPERATOR.search(name):
            return [Finding("nosql.name", "nosql", 5)]
        if _PROTOTYPES.search(name):
            return [_PROTOTYPE]
        return self.look(name, place)

    def _look_deeper(self, hidden: str, place: str) -> list[Finding]:
        """Of what was hidden in Base64, once."""
        return [Finding(one.name, one.kind, one.score, one.layers + 1) for one in self._look(hidden, place)]

    def _is_prose(self, text: str, place: str) -> bool:
        return place not in SHORT and text.count(" ") >= self._prose_from

    def _look(self, value: str, place: str) -> list[Finding]:
        text, layers = canonical(value[:MAX_VALUE])
        if "javascript:" in text:
            text = _VOID.sub("", text)
        if "<!doctype" in text:
            text = _HTML_DOCTYPE.sub("", text)
        found = self._all.search(text, place)
        if "/*" in text:
            found |= self._all.search(without_comments(text), place)
        if "<" in text or "script" in text:
            narrow = squeezed(text)
            if narrow != text:
                found |= self._squeezed.search(narrow, place)
        if "<" in text and ">" in text:
            found |= self._torn.search(_TAG.sub("", text), place)
        if SPLIT in found:
            bare = unquoted(text)
            if bare != text:
                found |= self._shell.search(bare, place)
        prose = self._is_prose(text, place)
        findings = [
            Finding(one.name, one.kind, one.score - 2 if one.soft and prose else one.score, layers)
            for one in found.values()
            if one.score
        ]
        if SQL_WORDS in found or "<" in text:
            known = {one.kind for one in found.values()}
            findings += self._injected(text, place, layers, prose=prose, known=known, sql=SQL_WORDS in found)
        return findings

    def _injected(
        self, text: str, place: str, layers: int, *, prose: bool, known: set[str], sql: bool = True
    ) -> Iterable[Finding]:
        """What libinjection's tokenizers say: of SQL by the fingerprint, of HTML by its parser's state."""
        half = TOKENIZED_MOST // 2
        pieces = [text] if len(text) <= TOKENIZED_MOST else [text[:half], text[-half:]]
        for piece in pieces if sql else ():
            told = libinjection.is_sql_injection(piece)
            if told["is_sqli"]:
                tokens = told["fingerprint"]
                weak = prose or not _STRONG_SQL.search(tokens) or _WEAK_SQL.match(tokens)
                score = 5 if not weak else 3 if place in SHORT else 2
                yield Finding(f"sql.fingerprint.{tokens}", "sql", score, layers)
                break
        if "<" in text and "xss" not in known and any(libinjection.is_xss(one + AFTER)["is_xss"] for one in pieces):
            yield Finding("xss.parsed", "xss", 5 if place in SHORT else 2, layers)


class Patterns:
    """Signatures compiled to RE2 sets: one of all, and one a group (the kinds that are many; the rest together)."""

    def __init__(self, signatures: Sequence[Signature], flags: str = "") -> None:
        self._all = tuple(signatures)
        groups: dict[str, list[Signature]] = {}
        for one in signatures:
            groups.setdefault(GROUPS.get(one.kind, ""), []).append(one)
        self._whole = _compiled(self._all, flags)
        self._groups = [(_compiled(some, flags), tuple(some)) for some in groups.values()]

    def search(self, text: str, place: str) -> dict[str, Signature]:
        """By name, those that mean something in that place."""
        found = {}
        for patterns, names in [(self._whole, self._all)] if len(text) <= TOGETHER_MOST else self._groups:
            for index in patterns.Match(text) or ():
                one = names[index]
                if one.places is None or place in one.places:
                    found[one.name] = one
        return found

    def matches(self, text: str) -> bool:
        return any(patterns.Match(text) for patterns, _ in self._groups)


def _compiled(signatures: Sequence[Signature], flags: str) -> re2.Set:
    options = re2.Options()
    options.max_mem = 64 << 20
    options.log_errors = False
    made = re2.Set.SearchSet(options)
    for one in signatures:
        try:
            made.Add(flags + one.pattern)
        except re2.error as error:
            raise ValueError(f"the pattern of {one.name}: {error}") from None
    made.Compile()
    return made
