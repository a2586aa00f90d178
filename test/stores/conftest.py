"""The stores, each started once, and one model in all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import servers
from shelves import BUCKET, Registry, Shelf, log_model, to_gcs, to_s3


@pytest.fixture(scope="session")
def model(save_model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model that answers what it gets, with a file that takes a while to come."""
    weights = tmp_path_factory.mktemp("weights") / "weights.bin"
    weights.write_bytes(os.urandom(3_000_000))

    def save(models, path: Path) -> Path:
        return models.save(models.EchoPlain(), path, artifacts={"weights": str(weights)})

    return save_model("weighty", save)


@pytest.fixture(scope="session")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Start the servers side by side; give their URLs."""
    making = {
        "mlflow": servers.mlflow_server(tmp_path_factory.mktemp("mlflow")),
        "s3": servers.s3(tmp_path_factory.mktemp("s3")),
        "gcs": servers.gcs(tmp_path_factory.mktemp("gcs"), BUCKET),
    }
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        started = {name: pool.submit(stack.enter_context, made) for name, made in making.items()}
        yield {name: future.result() for name, future in started.items()}


@pytest.fixture(scope="session")
def s3_shelf(urls: dict[str, str], model: Path) -> Shelf:
    return to_s3(urls["s3"], model)


@pytest.fixture(scope="session")
def gcs_shelf(urls: dict[str, str], model: Path) -> Shelf:
    return to_gcs(urls["gcs"], model)


@pytest.fixture(scope="session")
def registry(urls: dict[str, str], model: Path) -> Registry:
    return log_model(urls["mlflow"], model)


@pytest.fixture(params=["s3", "gcs", "artifacts"])
def shelf(request: pytest.FixtureRequest) -> Shelf:
    """Give each store in turn, with the model in it."""
    if request.param == "artifacts":
        artifacts: Registry = request.getfixturevalue("registry")
        return artifacts.shelf
    found: Shelf = request.getfixturevalue(f"{request.param}_shelf")
    return found
