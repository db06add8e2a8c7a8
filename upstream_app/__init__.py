"""SimplePro, the application that the proxy was made for. It knows the proxy over the network only."""

__version__ = "0.1.0"
