"""The application's settings, read once from the environment (names of the architecture report, section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, MongoDsn, RedisDsn, SecretStr, TypeAdapter, ValidationError

MongoUri = Annotated[str, Field(pattern=r"^mongodb(\+srv)?://")]
RedisUrl = Annotated[str, Field(pattern=r"^(rediss?|unix)://")]


DEVELOPMENT_SECRET = SecretStr("the access secret of a laptop, no production's")
DEVELOPMENT_REFRESH_SECRET = SecretStr("the refresh secret of a laptop, no production's")


class Settings(BaseModel):
    """Fields carry the environment's names; times are milliseconds, as the report has them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    HOST: str = "127.0.0.1"
    PORT: Annotated[int, Field(ge=0, le=65535)] = 4000
    ENVIRONMENT: Literal["development", "test", "staging", "production"] = "development"
    LOG_LEVEL: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    MONGODB_URI: MongoUri = "mongodb://127.0.0.1:27017/simplepro"
    MONGODB_MAX_POOL_SIZE: Annotated[int, Field(ge=1, le=500)] = 50
    MONGODB_MIN_POOL_SIZE: Annotated[int, Field(ge=0, le=500)] = 10
    MONGODB_MAX_IDLE_TIME_MS: Annotated[int, Field(ge=1_000)] = 300_000
    MONGODB_SERVER_SELECTION_TIMEOUT_MS: Annotated[int, Field(ge=10)] = 5_000
    MONGODB_CONNECT_TIMEOUT_MS: Annotated[int, Field(ge=10)] = 10_000
    MONGODB_SOCKET_TIMEOUT_MS: Annotated[int, Field(ge=10)] = 45_000
    MONGODB_WTIMEOUT_MS: Annotated[int, Field(ge=10)] = 10_000
    REDIS_URL: RedisUrl = "redis://127.0.0.1:6379"
    REDIS_PREFIX: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,40}$")] = "simplepro"
    REDIS_CLUSTER_MODE: bool = False
    REDIS_CLUSTER_NODES: str = ""
    JWT_SECRET: Annotated[SecretStr, Field(min_length=32)] = DEVELOPMENT_SECRET
    JWT_REFRESH_SECRET: Annotated[SecretStr, Field(min_length=32)] = DEVELOPMENT_REFRESH_SECRET
    EDGE_PURGE_URL: Annotated[str, Field(pattern=r"^(https?://[^\s]+)?$")] = ""
    EDGE_PURGE_TOKEN: SecretStr | None = None
    EDGE_SECONDS: Annotated[int, Field(ge=1, le=3600)] = 30
    WORKER_PROCESSES: Annotated[int, Field(ge=1, le=64)] = 1
    SHUTDOWN_TIMEOUT: Annotated[int, Field(ge=0, le=600_000)] = 30_000

    @property
    def cluster_nodes(self) -> list[tuple[str, int]]:
        """Host and port of each node of REDIS_CLUSTER_NODES, else the URL's."""
        texts = [one.strip() for one in self.REDIS_CLUSTER_NODES.split(",") if one.strip()]
        if not texts:
            parts = urlsplit(self.REDIS_URL)
            return [(parts.hostname or "127.0.0.1", parts.port or 6379)]
        found = [text.rpartition(":") for text in texts]
        return [(host.strip("[]"), int(port)) for host, _, port in found]


class InvalidSettings(Exception):
    """Every setting that can't be used, a line each; no value is repeated, since some are secrets."""


SECRETS = ("JWT_SECRET", "JWT_REFRESH_SECRET", "MONGODB_URI", "REDIS_URL", "EDGE_PURGE_TOKEN")


def _from_file(name: str, environment: Mapping[str, str]) -> str:
    """NAME_FILE names a file for NAME, as container secrets come; an empty text where there is none. Raises
    ValueError."""
    path = environment.get(f"{name}_FILE", "")
    try:
        return Path(path).read_text().strip() if path and not environment.get(name) else ""
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"{name}_FILE: {path} can't be read") from None


def _redis_url(given: Mapping[str, str]) -> str:
    """From REDIS_HOST, REDIS_PORT and REDIS_PASSWORD, the report's other way to say it."""
    password, host = given.get("REDIS_PASSWORD", ""), given["REDIS_HOST"]
    owner = f":{quote(password, safe='')}@" if password else ""
    return f"redis://{owner}{f'[{host}]' if ':' in host else host}:{given.get('REDIS_PORT', '6379')}"


def read(environment: Mapping[str, str]) -> Settings:
    """Raises InvalidSettings with all that is wrong. An empty variable counts as unset."""
    given = {name: value for name, value in environment.items() if value}
    lines: list[str] = []
    bad: set[str] = set()
    for name in (*SECRETS, "REDIS_PASSWORD"):
        try:
            text = _from_file(name, environment)
        except ValueError as error:
            lines.append(str(error))
            bad.add(name)
        else:
            given |= {name: text} if text else {}
    if "production" in {given.get("ENVIRONMENT"), given.get("NODE_ENV")}:
        given["ENVIRONMENT"] = "production"
    elif "NODE_ENV" in given:
        given.setdefault("ENVIRONMENT", given["NODE_ENV"])
    if "REDIS_URL" not in given and "REDIS_HOST" in given:
        given["REDIS_URL"] = _redis_url(given)
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        lines += [f"{one['loc'][0]}: {_lower(one['msg'])}" for one in error.errors(include_input=False)]
        bad |= {str(one["loc"][0]) for one in error.errors(include_input=False)}
        settings = Settings.model_validate({name: value for name, value in given.items() if name not in bad})
    lines += [line for line in _across(settings) if line.partition(":")[0] not in bad]
    if lines:
        raise InvalidSettings("\n".join(lines))
    return settings


def _across(settings: Settings) -> list[str]:
    """What is wrong though each setting by itself is not."""
    lines: list[str] = []
    for name, kind in (("MONGODB_URI", MongoDsn), ("REDIS_URL", RedisDsn)):
        url = getattr(settings, name)
        if url.startswith("unix:"):
            continue
        try:
            TypeAdapter(kind).validate_python(url)
        except ValidationError:
            lines.append(f"{name}: not a URL that can be connected to")
    for text in (one.strip() for one in settings.REDIS_CLUSTER_NODES.split(",") if one.strip()):
        host, _, port = text.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            lines.append("REDIS_CLUSTER_NODES: write host:port, by comma")
            break
    secrets = {name: getattr(settings, name).get_secret_value() for name in ("JWT_SECRET", "JWT_REFRESH_SECRET")}
    if settings.ENVIRONMENT == "production":
        defaults = {DEVELOPMENT_SECRET.get_secret_value(), DEVELOPMENT_REFRESH_SECRET.get_secret_value()}
        lines += [f"{name}: set a secret of your own in production" for name, one in secrets.items() if one in defaults]
    if secrets["JWT_SECRET"] == secrets["JWT_REFRESH_SECRET"]:
        lines.append("JWT_REFRESH_SECRET: the same as JWT_SECRET, and has to be another")
    if settings.MONGODB_MIN_POOL_SIZE > settings.MONGODB_MAX_POOL_SIZE:
        lines.append("MONGODB_MIN_POOL_SIZE: greater than MONGODB_MAX_POOL_SIZE")
    return lines


def _lower(message: str) -> str:
    return message[0].lower() + message[1:]
