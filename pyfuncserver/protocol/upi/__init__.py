"""The UPI v1 dialect, over gRPC."""
