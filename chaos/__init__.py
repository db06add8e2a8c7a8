"""What the stack promises while parts of it break: real servers, every link through toxiproxy, a recorded history.

Knows proxy and application over the network only.
"""
