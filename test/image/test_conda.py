"""The image of a model whose conda.yaml asks for more than pip can install."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from image import conda_channel
from image.containers import (
    BUILD_TIMEOUT_S,
    PYTHON_IMAGE,
    Built,
    Container,
    Engine,
    not_tested,
    save,
)

pytestmark = pytest.mark.timeout(2 * BUILD_TIMEOUT_S)

IMAGE = "localhost/pyfuncserver-conda:1"
USED = "import bz2, ctypes, lzma, sqlite3, ssl, zlib"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the channel `ours`."""
    folder = tmp_path_factory.mktemp("channels")
    conda_channel.write(folder / "ours", conda_channel.python(), conda_channel.NATIVE)
    with conda_channel.serve(folder) as url:
        yield url


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conda")
    (folder / "data.txt").write_text("as it was saved")
    python = f"python=3.{sys.version_info.minor}"
    asked = {
        "channels": ["ours"],
        "dependencies": [python, "native", {"pip": [f"mlflow=={mlflow.__version__}"]}],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NATIVE_DATA", str(folder))
        return save(folder / "model", "conda_model.py", conda_env=asked)


@pytest.fixture(scope="module")
def conda_built(
    engine: Engine, built: Built, saved: Path, address: str, figures: Callable[[str], None]
) -> Built:
    prefix = sys.base_prefix
    where = ["--volume", f"{prefix}:{prefix}:ro"]
    python = f"{prefix}/bin/{conda_channel.PYTHON}"
    if problem := engine.problem_of_containers(PYTHON_IMAGE, python, "-c", USED, flags=where):
        not_tested(f"the Python of this machine does not run on Debian: {problem}")
    base = re.search(r"^\$ buildah .*--tag (\S+base:\S+)", built.log, re.MULTILINE)
    assert base is not None
    began = time.monotonic()
    done = engine.run(
        *(sys.executable, "-m", "pyfuncserver", "build", "--builder", "buildah", "--image", IMAGE),
        *("--model_dir", str(saved), "--base_image", base[1], "--", *engine.volumes),
        *("--build-arg", "BUILD_PACKAGES=", "--build-arg", f"CONDA_CHANNEL_ALIAS={address}"),
        timeout_s=BUILD_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    figures(f"with conda in {time.monotonic() - began:.0f} s: {done.stdout.splitlines()[-1]}")
    return Built(IMAGE, done.stdout)


def test_the_model_finds_what_conda_installed(engine: Engine, conda_built: Built) -> None:
    # Read as the model was loaded, for the last step of the build, too.
    assert "the model /model can be loaded and served" in conda_built.log
    with Container(engine, conda_built.name) as running:
        assert running.predict({"do": "data"}).json() == {"data": "42"}
        assert running.shell("python -c 'import sys; print(sys.prefix)'") == "/opt/merlin-model"
        assert running.engine.status("healthcheck", "run", running.name) == 0


def test_nothing_of_condas_that_serving_does_not_need(engine: Engine, conda_built: Built) -> None:
    root = Path(engine.podman("image", "mount", conda_built.name))
    environment = root / "opt" / "merlin-model"
    assert (environment / "share" / "native" / "where.txt").read_text() == (
        "/opt/merlin-model/share/native\n"
    )
    assert not (environment / "include").exists()
    assert not list(environment.glob("conda-meta/*.json"))
    for name in ("opt/tools", "root/.cache", "tmp/*"):
        assert not list(root.glob(name)), name
    assert not list(environment.rglob("*rattler*"))
