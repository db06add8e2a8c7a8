"""Where a Redis-protocol server is, and who we are to it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Where the server is and who we are to it. `repr` keeps the password to itself."""

    host: str
    port: int
    username: str = ""
    password: str = field(default="", repr=False)
    database: int = 0
    tls: bool = False
    ca_file: str = ""
    """Who vouches for the server; the system's where it is empty. `cert_file` and `key_file` say who we are."""
    cert_file: str = ""
    key_file: str = ""

    @classmethod
    def parse(cls, url: str, ca_file: str = "", cert_file: str = "", key_file: str = "") -> StoreAddress:
        """`redis[s]://[user[:password]@]host[:port][/database]`. Raises ValueError."""
        parts = urlsplit(url)
        path = parts.path.strip("/")
        if parts.scheme not in ("redis", "rediss") or not parts.hostname or (path and not path.isdigit()):
            raise ValueError("not a Redis URL. Write redis[s]://[user:password@]host[:port][/database]")
        return cls(
            parts.hostname,
            parts.port or 6379,
            unquote(parts.username or ""),
            unquote(parts.password or ""),
            int(path or 0),
            parts.scheme == "rediss",
            ca_file,
            cert_file,
            key_file,
        )

    def context(self) -> ssl.SSLContext | None:
        """None without TLS. Raises OSError (ssl.SSLError among them) where a file can't be used."""
        if not self.tls:
            return None
        made = ssl.create_default_context(cafile=self.ca_file or None)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert_file:
            made.load_cert_chain(self.cert_file, self.key_file or None)
        return made

    @property
    def for_redis(self) -> dict[str, Any]:
        """The account as redis-py's clients take it."""
        found: dict[str, Any] = {"username": self.username or None, "password": self.password or None, "ssl": self.tls}
        if self.tls:
            files = {"ssl_ca_certs": self.ca_file, "ssl_certfile": self.cert_file, "ssl_keyfile": self.key_file}
            found |= {name: file for name, file in files.items() if file}
        return found
