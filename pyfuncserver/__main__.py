"""``python -m pyfuncserver --model_dir DIR``; also the console script ``pyfuncserver``."""

from __future__ import annotations

import sys

from pyfuncserver import server


def main() -> None:
    sys.exit(server.main(sys.argv[1:]))


if __name__ == "__main__":
    main()
