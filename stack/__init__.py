"""The whole stack on one machine, of real servers: for `make run`, for tests, for chaos. Never in a runtime image."""
