"""Extensions of WebSockets: which offers of a client go on, and which answer of an upstream fits them.

Only permessage-deflate is known (RFC 6455 section 9, RFC 7692 section 7.1): what else is offered goes no further, so
that no upstream can agree to frames that the proxy can't read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

DEFLATE = b"permessage-deflate"
SERVER_ALONE, CLIENT_ALONE = b"server_no_context_takeover", b"client_no_context_takeover"
SERVER_BITS, CLIENT_BITS = b"server_max_window_bits", b"client_max_window_bits"
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_NAME = re.compile(rb"[ \t]*(" + _TOKEN + rb")[ \t]*")
_PARAMETER = re.compile(rb';[ \t]*(%b)(?:[ \t]*=[ \t]*(?:(%b)|"(%b)"))?[ \t]*' % (_TOKEN, _TOKEN, _TOKEN))
_BITS = re.compile(rb"[89]|1[0-5]")
Parameters = Mapping[bytes, bytes]
"""Names in lower case; an empty value is none."""


class Malformed(ValueError):
    """What stands there is no list of extensions."""


class NotOffered(ValueError):
    """The answer fits none of the offers."""


def listed(values: Sequence[bytes]) -> list[tuple[bytes, list[tuple[bytes, bytes]]]]:
    """Extensions with their parameters, in order. Raises Malformed."""
    found: list[tuple[bytes, list[tuple[bytes, bytes]]]] = []
    text = b",".join(values)
    at = 0
    while at < len(text):
        if text[at] in b", \t":
            at += 1
            continue
        name = _NAME.match(text, at)
        if name is None:
            raise Malformed
        at = name.end()
        parameters = []
        while (one := _PARAMETER.match(text, at)) is not None:
            parameters.append((one[1].lower(), one[2] or one[3] or b""))
            at = one.end()
        if at < len(text) and text[at : at + 1] != b",":
            raise Malformed
        found.append((name[1].lower(), parameters))
    return found


def _valid(given: Sequence[tuple[bytes, bytes]], *, answer: bool) -> Parameters | None:
    """None where a parameter is not known, stands twice, or has a value that it can't have."""
    made = dict(given)
    if len(made) != len(given):
        return None
    for name, value in given:
        if name in (SERVER_ALONE, CLIENT_ALONE):
            good = not value
        elif name == CLIENT_BITS and not value:
            good = not answer
        else:
            good = name in (SERVER_BITS, CLIENT_BITS) and _BITS.fullmatch(value) is not None
        if not good:
            return None
    return made


def offers(values: Sequence[bytes]) -> list[Parameters]:
    """The client's offers of permessage-deflate that may be taken. Raises Malformed."""
    read = (_valid(parameters, answer=False) for name, parameters in listed(values) if name == DEFLATE)
    return [one for one in read if one is not None]


def proposal(made: Sequence[Parameters], deflate: str) -> bytes:
    """What the upstream is offered; empty for nothing. Under `inspect`, each message is compressed by itself: one can
    be read, or dropped, without the others (RFC 7692 section 7.1.1)."""
    if deflate == "off" or not made:
        return b""
    if deflate == "inspect":
        bits = made[0].get(SERVER_BITS, b"")
        more = b"; %b=%b" % (SERVER_BITS, bits) if bits else b""
        return b"%b; %b; %b%b" % (DEFLATE, CLIENT_ALONE, SERVER_ALONE, more)
    return b", ".join(
        [DEFLATE + b"".join([b"; " + name + (b"=" + value if value else b"") for name, value in one.items()])
         for one in made]
    )  # fmt: skip


def answered(values: Sequence[bytes], offered: Sequence[Parameters]) -> Parameters | None:
    """What was agreed on; None where the answer has no extension. Raises NotOffered, Malformed."""
    taken = listed(values)
    if not taken:
        return None
    read = _valid(taken[0][1], answer=True) if len(taken) == 1 and taken[0][0] == DEFLATE else None
    if read is None or not any(_fits(read, one) for one in offered):
        raise NotOffered
    return read


def _fits(answer: Parameters, offer: Parameters) -> bool:
    if SERVER_ALONE in offer and SERVER_ALONE not in answer:
        return False
    if CLIENT_BITS in answer and CLIENT_BITS not in offer:
        return False
    if int(answer.get(CLIENT_BITS, b"0")) > int(offer.get(CLIENT_BITS) or b"15"):
        return False
    wanted = offer.get(SERVER_BITS)
    return wanted is None or int(answer.get(SERVER_BITS, b"16")) <= int(wanted)
