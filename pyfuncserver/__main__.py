"""``python -m pyfuncserver --model_dir DIR``; also the console script ``pyfuncserver``."""

from __future__ import annotations

import sys


def main() -> None:
    """Serve, or with ``build`` as the first word build a model's image."""
    if sys.argv[1:2] == ["build"]:
        from pyfuncserver.image import build
        from pyfuncserver.utils import processes

        # Not sys.exit: that waits for the threads in which a store's library fetches files.
        processes.leave(build.main(sys.argv[2:]))
    from pyfuncserver import server

    sys.exit(server.main(sys.argv[1:]))


if __name__ == "__main__":
    main()
