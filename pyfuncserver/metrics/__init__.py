"""Prometheus: the directory where processes meet, our instruments, exposition, the pusher."""
