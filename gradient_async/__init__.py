"""Async streaming client for DigitalOcean Gradient chat completions."""

__version__ = "0.1.0"
