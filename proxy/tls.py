"""TLS contexts of listeners and of connections to upstreams: TLS 1.2 with forward secrecy and AEAD, or 1.3 (RFC 9325).

Certificates are files; `Fingerprint` says whether any of them changed since.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2 (RFC 9325 section 4.2); those of 1.3 are all good."""
ALPN = ["http/1.1"]
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

Fingerprint = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class KeyPair:
    """PEM files: a certificate with its chain, and its key."""

    cert: str
    key: str


@dataclass(frozen=True, slots=True)
class ServerTls:
    """`pairs` are chosen by the server name that the client asks for (RFC 6066 section 3); the first is for the rest.
    `client_ca` vouches for clients, which have to have a certificate where `client_required`."""

    pairs: tuple[KeyPair, ...]
    min_version: str = "1.2"
    client_ca: str = ""
    client_required: bool = True

    @property
    def files(self) -> list[str]:
        return [name for pair in self.pairs for name in (pair.cert, pair.key)] + [self.client_ca] * bool(self.client_ca)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How an upstream is asked. `ca` replaces the system's authorities; `server_name` is asked for and checked."""

    verify: bool = True
    ca: str = ""
    server_name: str = ""
    pair: KeyPair | None = None
    min_version: str = "1.2"
    files_were: Fingerprint = ()
    """A changed file makes other terms, and a reload then takes it over."""


class Served(NamedTuple):
    """One certificate that a listener has: the names in it, and until when it is good."""

    file: str
    names: frozenset[str]
    not_after: datetime


class ClientCertificate(NamedTuple):
    """Of a client that a listener's `client_ca` vouches for: its name (a URI, else a DNS name, else its common name),
    and its XFCC element as Envoy writes it (`Hash`, `Subject`, `URI`, `DNS`)."""

    name: str
    element: bytes


def fingerprint(files: Iterable[str]) -> Fingerprint:
    """Raises OSError where one is missing."""
    rows = []
    for name in sorted(set(files)):
        told = os.stat(name)
        rows.append((name, told.st_mtime_ns, told.st_size, told.st_ino))
    return tuple(rows)


def served_by(pair: KeyPair) -> Served:
    """Raises ValueError where the file holds no certificate."""
    from cryptography import x509  # 50 ms, which a process without TLS does not spend

    try:
        certificate = x509.load_pem_x509_certificate(Path(pair.cert).read_bytes())
    except OSError as error:
        raise ValueError(f"{pair.cert} can't be read: {error.strerror}") from None
    except ValueError:
        raise ValueError(f"{pair.cert} holds no certificate as PEM") from None
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = frozenset(name.lower() for name in alternative.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        names = frozenset()
    return Served(pair.cert, names, certificate.not_valid_after_utc)


def server_context(terms: ServerTls) -> ssl.SSLContext:
    """Raises ValueError that names the file which can't be used."""
    contexts = [_server(terms, pair) for pair in terms.pairs]
    by_name: dict[str, ssl.SSLContext] = {}
    for pair, context in zip(terms.pairs, contexts, strict=True):
        for name in served_by(pair).names:
            by_name.setdefault(name, context)
    first = contexts[0]

    def choose(wrapped: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        asked = (name or "").lower()
        found = by_name.get(asked) or by_name.get("*." + asked.partition(".")[2])
        if found is not None and found is not first:
            wrapped.context = found

    if len(contexts) > 1:
        first.sni_callback = choose
    return first


def _server(terms: ServerTls, pair: KeyPair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[terms.min_version]
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(ALPN)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    _load_pair(context, pair)
    if terms.client_ca:
        context.verify_mode = ssl.CERT_REQUIRED if terms.client_required else ssl.CERT_OPTIONAL
        _load_authority(context, terms.client_ca)
    return context


def client_context(terms: ClientTls) -> ssl.SSLContext:
    """Raises ValueError that names the file which can't be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = VERSIONS[terms.min_version]
    context.set_alpn_protocols(ALPN)
    if not terms.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif terms.ca:
        _load_authority(context, terms.ca)
    else:
        context.load_default_certs()
    if terms.pair is not None:
        _load_pair(context, terms.pair)
    return context


def _load_pair(context: ssl.SSLContext, pair: KeyPair) -> None:
    for name in (pair.cert, pair.key):
        _readable(name)
    try:
        context.load_cert_chain(pair.cert, pair.key, password=_no_password)
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        hint = ": the key belongs to another certificate" if "mismatch" in reason else ""
        raise ValueError(f"{pair.cert} and {pair.key} can't be used ({reason}){hint}") from None
    except _Encrypted:
        raise ValueError(f"{pair.key} is encrypted. Write the key without a password, and guard the file") from None


def _load_authority(context: ssl.SSLContext, name: str) -> None:
    _readable(name)
    try:
        context.load_verify_locations(name)
    except ssl.SSLError as error:
        raise ValueError(f"{name} holds no certificates ({error.reason or error})") from None


def _readable(name: str) -> None:
    try:
        with open(name, "rb"):
            return
    except OSError as error:
        raise ValueError(f"{name} can't be read: {error.strerror}") from None


class _Encrypted(Exception):
    pass


def _no_password() -> str:
    raise _Encrypted


def client_certificate(wrapped: Any) -> ClientCertificate | None:
    """Of an ssl_object whose peer was verified; None where it sent none."""
    told = wrapped.getpeercert()
    binary = wrapped.getpeercert(binary_form=True)
    if not told or not binary:
        return None
    alternative: list[tuple[str, str]] = list(told.get("subjectAltName", ()))
    uris = [value for kind, value in alternative if kind == "URI"]
    hosts = [value for kind, value in alternative if kind == "DNS"]
    subject = [(key, value) for part in told.get("subject", ()) for key, value in part]
    common = [value for key, value in subject if key == "commonName"]
    name = (uris or hosts or common or ["-"])[0]
    written = ",".join(f"{_SHORT.get(key, key)}={value}" for key, value in reversed(subject))
    parts = [f"Hash={hashlib.sha256(binary).hexdigest()}", f'Subject="{_quoted(written)}"']
    parts += [f"URI={_plain(value)}" for value in uris] + [f"DNS={_plain(value)}" for value in hosts]
    return ClientCertificate(name, ";".join(parts).encode("ascii", "backslashreplace"))


_SHORT = {
    "commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C",
    "stateOrProvinceName": "ST", "localityName": "L",
}  # fmt: skip


def _quoted(text: str) -> str:
    kept = "".join(one if " " <= one <= "~" else "?" for one in text)
    return kept.replace("\\", "\\\\").replace('"', '\\"')


def _plain(text: str) -> str:
    """What can't end its element or its field."""
    return "".join(one if "!" <= one <= "~" and one not in ';,="' else "?" for one in text)
