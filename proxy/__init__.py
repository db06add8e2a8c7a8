"""A sidecar reverse proxy that enforces YAML policies on HTTP and WebSocket traffic."""

__version__ = "0.1.0"
