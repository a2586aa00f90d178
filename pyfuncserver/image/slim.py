"""Takes out of an environment what serving never reads: tests, a UI, and conda's headers and such.

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

# Below a conda environment. The folder conda-meta stays, by which libraries know one (numba), and
# share/doc, where licences lie.
UNREAD_OF_CONDA = (
    "conda-meta/*.json",
    "share/man",
    "share/info",
    "share/gtk-doc",
    "lib/python3.*/test",
    "lib/python3.*/site-packages/pip",
    "lib/python3.*/site-packages/pip-*.dist-info",
    "bin/pip",
    "bin/pip[0-9]*",
)
# Some models bring a compiler of their own (PyMC, Stan), or NVIDIA's at run time (CuPy).
COMPILERS = ("bin/*gcc", "bin/*g++", "bin/*-cc", "bin/clang*", "lib/libnvrtc.so*")
READ_BY_COMPILERS = ("include", "lib/*.a", "lib/python3.*/config-3.*/*.a")


def slim_conda(prefix: Path) -> int:
    """Remove from a conda environment what nobody reads; give the bytes that were saved."""
    if not (prefix / "conda-meta").is_dir():
        return 0
    has_compiler = any(path for pattern in COMPILERS for path in prefix.glob(pattern))
    patterns = (*UNREAD_OF_CONDA, *(() if has_compiler else READ_BY_COMPILERS))
    found = {
        path.parent.resolve() / path.name for pattern in patterns for path in prefix.glob(pattern)
    }
    return sum(_remove(path) for path in found)


def slim(site_packages: Path) -> int:
    """Remove what nobody reads; give the bytes that were saved."""
    saved = 0
    for package, pattern in UNREAD.items():
        # Sorted, so that a folder goes before those in it.
        for folder in sorted((site_packages / package).glob(pattern)):
            if folder.is_dir() and not folder.is_symlink():
                saved += _remove(folder)
    return saved


def _remove(path: Path) -> int:
    size = size_of(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    return size


def size_of(path: Path) -> int:
    """Give the bytes of a file, or of all files below a folder; a link counts as nothing."""
    below = [path] if path.is_file() else path.rglob("*")
    files = (file for file in below if file.is_file() and not file.is_symlink())
    return sum(file.stat().st_size for file in files)
