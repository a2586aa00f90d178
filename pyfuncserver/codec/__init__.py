"""Codecs: bytes to values and values to bytes. They know neither sockets nor models."""
