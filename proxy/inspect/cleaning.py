"""What may be done to a text: functions that give it back as it is where there is nothing to do.

Two engines read HTML behind one interface. `nh3` (Rust, html5ever's parser) is the default: 10 to 50 times quicker, and
kept up; `bleach` (html5lib's parser) has reached its end of life and is here for who has to have its exact output.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Literal

import nh3

Engine = Literal["nh3", "bleach"]
Action = Literal["strip_html", "allow_html", "escape_html", "strip_operators", "trim", "normalize"]
Edit = Callable[[str], str]

MAX_DEPTH = 200
"""Of open elements: parsers take time by the square of it. A text that nests deeper is escaped instead."""
BLEACH_MOST = 16 * 1024
"""Characters up to which bleach is asked; a longer text is escaped instead."""
_TAG = re.compile(r"<(/?)[a-zA-Z][^\s/>]{0,40}")
_MARKUP = re.compile(r"<[a-zA-Z/!?]")
_HIDDEN = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0001\U000e0020-\U000e007f]"
)
"""Characters that are not seen and change what is: directions (UAX 9), zero widths but for the joiners, which scripts
and emoji need, tags."""
DEFAULT_TAGS = frozenset({
    "a", "abbr", "b", "blockquote", "br", "code", "dd", "div", "dl", "dt", "em", "h1", "h2", "h3", "h4", "h5", "h6",
    "hr", "i", "img", "li", "ol", "p", "pre", "s", "small", "span", "strong", "sub", "sup", "table", "tbody", "td",
    "tfoot", "th", "thead", "tr", "u", "ul",
})  # fmt: skip
DEFAULT_ATTRIBUTES: Mapping[str, frozenset[str]] = {
    "a": frozenset({"href", "title"}),
    "img": frozenset({"src", "alt", "title", "width", "height"}),
    "td": frozenset({"colspan", "rowspan"}),
    "th": frozenset({"colspan", "rowspan"}),
}
SCHEMES = frozenset({"http", "https", "mailto", "tel"})


def escape_html(text: str) -> str:
    return html.escape(text) if any(one in text for one in "<>&\"'") else text


def trim(text: str) -> str:
    """White space at both ends."""
    return text.strip()


def normalize(text: str) -> str:
    """NFC (UAX 15), without characters that hide or turn others."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _HIDDEN.sub("", text))


def strip_html(engine: Engine) -> Edit:
    """All markup goes; the text of what can't be shown (script, style) goes with it where the engine is nh3."""
    return _markup(engine, frozenset(), {})


def allow_html(engine: Engine, tags: frozenset[str], attributes: Mapping[str, frozenset[str]]) -> Edit:
    """Only these elements and attributes stay, with addresses of harmless schemes."""
    return _markup(engine, tags, attributes)


def _markup(engine: Engine, tags: frozenset[str], attributes: Mapping[str, frozenset[str]]) -> Edit:
    if engine == "nh3":
        cleaner = nh3.Cleaner(
            tags=set(tags),
            attributes={tag: set(names) for tag, names in attributes.items() if tag in tags},
            url_schemes=set(SCHEMES),
            link_rel="noopener noreferrer" if "a" in tags else None,
        )
        clean: Edit = cleaner.clean
    else:
        import bleach  # 3 MiB, for the few who want it

        bleacher = bleach.Cleaner(
            tags=tags,
            attributes={tag: sorted(names) for tag, names in attributes.items()},
            protocols=SCHEMES,
            strip=True,
        )
        clean = bleacher.clean

    def edit(text: str) -> str:
        if not _MARKUP.search(text):
            return text
        if _depth(text) > MAX_DEPTH or (engine == "bleach" and len(text) > BLEACH_MOST):
            return escape_html(text)
        return clean(text)

    return edit


def _depth(text: str) -> int:
    """The most elements that may be open at once; closing tags that close nothing count for nothing."""
    most = open_ = 0
    for match in _TAG.finditer(text):
        if match[1]:
            open_ = max(0, open_ - 1)
        else:
            open_ += 1
            most = max(most, open_)
    return most


def edits(
    actions: tuple[Action, ...], engine: Engine, tags: frozenset[str], attributes: Mapping[str, frozenset[str]]
) -> tuple[tuple[Action, Edit], ...]:
    """Of texts, in that order; operators are taken out of documents, not of texts."""
    known: dict[Action, Callable[[], Edit]] = {
        "strip_html": lambda: strip_html(engine),
        "allow_html": lambda: allow_html(engine, tags, attributes),
        "escape_html": lambda: escape_html,
        "trim": lambda: trim,
        "normalize": lambda: normalize,
    }
    return tuple((name, known[name]()) for name in actions if name in known)
