"""The application's settings, read once from the environment (names of the architecture report, section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, MongoDsn, RedisDsn, TypeAdapter, ValidationError

MongoUri = Annotated[str, Field(pattern=r"^mongodb(\+srv)?://")]
RedisUrl = Annotated[str, Field(pattern=r"^(rediss?|unix)://")]


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
    REDIS_URL: RedisUrl = "redis://127.0.0.1:6379"
    SHUTDOWN_TIMEOUT: Annotated[int, Field(ge=0, le=600_000)] = 30_000


class InvalidSettings(Exception):
    """Every setting that can't be used, a line each; no value is repeated, since some are secrets."""


def read(environment: Mapping[str, str]) -> Settings:
    """Raises InvalidSettings with all that is wrong. An empty variable counts as unset."""
    given = {name: value for name, value in environment.items() if value}
    if "ENVIRONMENT" not in given and "NODE_ENV" in given:
        given["ENVIRONMENT"] = given["NODE_ENV"]
    lines = []
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        lines = [f"{one['loc'][0]}: {_lower(one['msg'])}" for one in error.errors(include_input=False)]
        raise InvalidSettings("\n".join(lines)) from None
    for name, kind in (("MONGODB_URI", MongoDsn), ("REDIS_URL", RedisDsn)):
        url = getattr(settings, name)
        if url.startswith("unix:"):
            continue
        try:
            TypeAdapter(kind).validate_python(url)
        except ValidationError:
            lines.append(f"{name}: not a URL that can be connected to")
    if settings.MONGODB_MIN_POOL_SIZE > settings.MONGODB_MAX_POOL_SIZE:
        lines.append("MONGODB_MIN_POOL_SIZE: greater than MONGODB_MAX_POOL_SIZE")
    if lines:
        raise InvalidSettings("\n".join(lines))
    return settings


def _lower(message: str) -> str:
    return message[0].lower() + message[1:]
