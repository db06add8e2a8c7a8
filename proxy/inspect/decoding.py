"""What a value may turn into behind the proxy: undone in a bounded number of rounds, each linear in its length."""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata

ROUNDS = 3
MAX_BASE64 = 64 * 1024
_ESCAPE = re.compile(r"%u([0-9a-fA-F]{4})|((?:%[0-9a-fA-F]{2})+)")
_SCRIPT = re.compile(r"\\(?:u\{([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|u00([0-9a-fA-F]{2}))")
_ENTITY = re.compile(r"&#?[0-9A-Za-z_]")
_INVISIBLE = dict.fromkeys(
    [0x00, 0xAD, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
)
_ALIKE = {
    0x560A: 0x0A,
    0x560D: 0x0D,
    0x2018: 0x27,
    0x2019: 0x27,
    0x02BC: 0x27,
    0x2215: 0x2F,
    0xFF0F: 0x2F,
    0x2044: 0x2F,
}
"""Characters that careless code folds to others; 0x560A and 0x560D lose their upper byte."""
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]+ ?){1,4}={0,2}|[A-Za-z0-9_-]+={0,2}")
_RUN = re.compile(r"[A-Za-z0-9+/]{16}")
_COMMENT = re.compile(r"/\*!\d{0,6}|/\*[^*]{0,400}(?:\*[^*/][^*]{0,400}){0,20}\*/|\*/")
_SPACE = re.compile(r"[\s\x00-\x20\x7f\xa0]+")


def percent(text: str) -> str:
    """`%XX`, `%uXXXX` and UTF-8 in more bytes than it needs; what decodes to nothing stays as Latin-1."""
    return _ESCAPE.sub(_unescaped, text)


def _unescaped(match: re.Match[str]) -> str:
    if match[1]:
        code = int(match[1], 16)
        return chr(code) if not 0xD800 <= code < 0xE000 else "\ufffd"
    raw = bytes.fromhex(match[2].replace("%", ""))
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return _overlong(raw)


def _overlong(raw: bytes) -> str:
    """UTF-8 as lenient decoders read it (RFC 3629 section 10 tells why they should not)."""
    found, at = [], 0
    while at < len(raw):
        byte = raw[at]
        more = 1 if 0xC0 <= byte < 0xE0 else 2 if 0xE0 <= byte < 0xF0 else 3 if 0xF0 <= byte < 0xF8 else 0
        rest = raw[at + 1 : at + 1 + more]
        if more and len(rest) == more and all(one & 0xC0 == 0x80 for one in rest):
            code = byte & (0x3F >> more)
            for one in rest:
                code = code << 6 | one & 0x3F
            found.append(chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd")
            at += 1 + more
        else:
            found.append(chr(byte))
            at += 1
    return "".join(found)


def script(text: str) -> str:
    """JavaScript's and JSON's escapes."""
    return _SCRIPT.sub(_scripted, text)


def _scripted(match: re.Match[str]) -> str:
    code = int(match[1] or match[2] or match[3] or match[4], 16)
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else ""


def canonical(text: str) -> tuple[str, int]:
    """In lower case, with every layer undone; and how many layers there were."""
    layers = 0
    for _ in range(ROUNDS):
        before = text
        if "%" in text:
            text = percent(text)
        if "&" in text and _ENTITY.search(text):
            text = html.unescape(text)
        if "\\" in text:
            text = script(text)
        if text == before:
            break
        layers += 1
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_ALIKE)).translate(_INVISIBLE)
    elif "\x00" in text:
        text = text.replace("\x00", "")
    return text.lower(), layers


def without_comments(text: str) -> str:
    """SQL's comments as spaces; what MySQL would run inside of them stays."""
    return _COMMENT.sub(" ", text)


def unquoted(text: str) -> str:
    """As a shell joins words: without quotes, backslashes, carets and empty expansions."""
    for one in ("'", '"', "\\", "^", "$@", "$*"):
        if one in text:
            text = text.replace(one, "")
    return text


def squeezed(text: str) -> str:
    """Without white space and control characters, which browsers skip in a scheme."""
    return _SPACE.sub("", text)


def from_base64(text: str) -> str | None:
    """What it says, where it is Base64 of text; a plus may have become a space."""
    if not 8 <= len(text) <= MAX_BASE64 or "." in text or "," in text:
        return None
    if (" " in text and not _RUN.search(text)) or not _BASE64.fullmatch(text):
        return None
    raw = text.rstrip("=").replace("-", "+").replace("_", "/").replace(" ", "+")
    if len(raw) % 4 == 1:
        return None
    try:
        found = base64.b64decode(raw + "=" * (-len(raw) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    printable = sum(one.isprintable() or one in "\r\n\t\x00" for one in found)
    return found if printable == len(found) else None
