"""Seldon's dialect, over gRPC."""
