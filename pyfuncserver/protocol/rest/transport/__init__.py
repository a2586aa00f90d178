"""Moves HTTP/1.1 bytes: our own transport on httptools, and Tornado's."""
