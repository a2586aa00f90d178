"""Protocols: transports that move bytes, and dialects that give them a meaning."""
