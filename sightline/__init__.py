"""Sightline: gRPC services that let a bot talk about pictures it was never taught to talk about."""

__version__ = "0.1.0"
