"""gRPC: the UPI v1 service, health and reflection."""
