"""Takes out of an environment what serving never reads: the test suites of large packages, a UI.

Only folders that are known by name, of packages that are known not to import them. A package that
is not in the list keeps its tests: some import theirs (astropy's ``tests.runner``).
"""

from __future__ import annotations

import shutil
from pathlib import Path

# Package, and what of it; sizes are those of the sources, and compiled files are as large again.
UNREAD = {
    "matplotlib": "tests",  # 3 MB
    "mlflow": "server/js/build",  # 27 MB, the tracking server's pages
    "numpy": "**/tests",  # 8 MB
    "pandas": "tests",  # 18 MB
    "pyarrow": "tests",  # 3 MB
    "scipy": "**/tests",  # 18 MB
    "sklearn": "**/tests",  # 7 MB
}


def slim(site_packages: Path) -> int:
    """Remove what nobody reads; give the bytes that were saved."""
    saved = 0
    for package, pattern in UNREAD.items():
        # Sorted, so that a folder goes before those in it.
        for folder in sorted((site_packages / package).glob(pattern)):
            if folder.is_dir() and not folder.is_symlink():
                saved += size_of(folder)
                shutil.rmtree(folder)
    return saved


def size_of(folder: Path) -> int:
    """Give the bytes of all files below; a link counts as nothing."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return sum(file.stat().st_size for file in files)
