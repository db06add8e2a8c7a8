"""The environment, read at once and completely."""

from __future__ import annotations

import pytest

from upstream_app import settings


def test_defaults_are_the_reports() -> None:
    chosen = settings.read({})
    assert (chosen.PORT, chosen.MONGODB_MAX_POOL_SIZE, chosen.MONGODB_MIN_POOL_SIZE) == (4000, 50, 10)
    assert chosen.SHUTDOWN_TIMEOUT == 30_000


def test_node_env_counts_where_environment_is_silent() -> None:
    own = {"JWT_SECRET": "a" * 32, "JWT_REFRESH_SECRET": "b" * 32}
    assert settings.read({"NODE_ENV": "production", **own}).ENVIRONMENT == "production"
    assert settings.read({"NODE_ENV": "production", "ENVIRONMENT": "test", **own}).ENVIRONMENT == "production"
    assert settings.read({"NODE_ENV": "test"}).ENVIRONMENT == "test"
    assert settings.read({"NODE_ENV": "test", "ENVIRONMENT": "staging"}).ENVIRONMENT == "staging"


def test_everything_wrong_at_once_and_no_value_told() -> None:
    with pytest.raises(settings.InvalidSettings) as caught:
        settings.read({"PORT": "0x1", "MONGODB_URI": "postgres://u:hunter2@h", "REDIS_URL": "http://x"})
    text = str(caught.value)
    assert [line.split(":")[0] for line in text.splitlines()] == ["PORT", "MONGODB_URI", "REDIS_URL"]
    assert "hunter2" not in text


def test_what_is_wrong_across_settings_is_told_in_the_same_round() -> None:
    with pytest.raises(settings.InvalidSettings) as caught:
        settings.read({
            "PORT": "x", "JWT_SECRET_FILE": "/nowhere", "MONGODB_MIN_POOL_SIZE": "60", "NODE_ENV": "production",
            "REDIS_CLUSTER_NODES": "a",
        })  # fmt: skip
    told = [line.split(":")[0] for line in str(caught.value).splitlines()]
    assert told == ["JWT_SECRET_FILE", "PORT", "REDIS_CLUSTER_NODES", "JWT_REFRESH_SECRET", "MONGODB_MIN_POOL_SIZE"]


def test_redis_may_be_named_by_its_parts() -> None:
    chosen = settings.read({"REDIS_HOST": "cache", "REDIS_PORT": "6380", "REDIS_PASSWORD": "p@ss"})
    assert chosen.REDIS_URL == "redis://:p%40ss@cache:6380"


def test_pools_must_fit() -> None:
    with pytest.raises(settings.InvalidSettings, match="MONGODB_MIN_POOL_SIZE"):
        settings.read({"MONGODB_MIN_POOL_SIZE": "60"})
