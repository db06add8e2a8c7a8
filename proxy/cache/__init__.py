"""A shared cache of answers (RFC 9111): what may be kept, how long, for whom, and when it is forgotten."""
