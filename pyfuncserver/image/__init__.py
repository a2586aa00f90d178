"""A model's image: what its build runs inside, its health check, and ``pyfuncserver build``.

The build runs ``python -m pyfuncserver.image`` before the server is installed, in an environment
that has only ``packaging`` and ``PyYAML`` besides: nothing here imports more than these.
"""
