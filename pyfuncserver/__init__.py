"""pyfuncserver serves one MLflow model: KServe V1 JSON over HTTP, caraml UPI v1 over gRPC."""

__version__ = "0.1.0"
