"""Several processes of one sidecar: a parent that owns the sockets and the admin, and workers that serve."""
