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
    assert settings.read({"NODE_ENV": "production", "ENVIRONMENT": "test"}).ENVIRONMENT == "test"


def test_everything_wrong_at_once_and_no_value_told() -> None:
    with pytest.raises(settings.InvalidSettings) as caught:
        settings.read({"PORT": "0x1", "MONGODB_URI": "postgres://u:hunter2@h", "REDIS_URL": "http://x"})
    text = str(caught.value)
    assert [line.split(":")[0] for line in text.splitlines()] == ["PORT", "MONGODB_URI", "REDIS_URL"]
    assert "hunter2" not in text


def test_pools_must_fit() -> None:
    with pytest.raises(settings.InvalidSettings, match="MONGODB_MIN_POOL_SIZE"):
        settings.read({"MONGODB_MIN_POOL_SIZE": "60"})
