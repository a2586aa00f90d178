"""gRPC: the transport, with health and reflection; what it serves is given to it."""
