"""A model put into real stores, and how each is asked for it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

BUCKET = "shelf"
KEY = "models/weighty"


@dataclass(frozen=True)
class Shelf:
    """A model's address, and the variables by which its store is found."""

    address: str
    url: str
    variables: Callable[[str], dict[str, str]]
    """Take the store's URL, or that of a proxy before it."""
    overwrite: Callable[[str, bytes], None]
    """Put other bytes in the place of one of the model's files."""

    def env(self, url: str = "") -> dict[str, str]:
        return self.variables(url or self.url)


@dataclass(frozen=True)
class Registry:
    """A model that was logged and registered."""

    shelf: Shelf
    run_id: str
    model_id: str
    name: str


def files_of(model: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(model)): path.read_bytes()
        for path in sorted(model.rglob("*"))
        if path.is_file()
    }


def to_s3(url: str, model: Path) -> Shelf:
    import boto3

    client = boto3.client("s3", endpoint_url=url, **S3_KEYS)
    client.create_bucket(Bucket=BUCKET)

    def put(name: str, data: bytes) -> None:
        client.put_object(Bucket=BUCKET, Key=f"{KEY}/{name}", Body=data)

    for name, data in files_of(model).items():
        put(name, data)
    client.put_object(Bucket=BUCKET, Key="files/one.bin", Body=b"one")
    client.put_object(Bucket=BUCKET, Key="files/one.bin.old", Body=b"another")
    client.put_object(Bucket=BUCKET, Key=f"{KEY}/", Body=b"")  # as S3's console marks a directory
    return Shelf(f"s3://{BUCKET}/{KEY}", url, s3_variables, put)


S3_KEYS = {
    "aws_access_key_id": "tester",
    "aws_secret_access_key": "s3-secret-of-the-tests",
    "region_name": "us-east-1",
}


def s3_variables(url: str) -> dict[str, str]:
    return {"MLFLOW_S3_ENDPOINT_URL": url, **{k.upper(): v for k, v in S3_KEYS.items()}} | {
        "AWS_DEFAULT_REGION": S3_KEYS["region_name"]
    }


def to_gcs(url: str, model: Path) -> Shelf:
    os.environ["STORAGE_EMULATOR_HOST"] = url
    try:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        client = storage.Client(project="tests", credentials=AnonymousCredentials())
    finally:
        del os.environ["STORAGE_EMULATOR_HOST"]

    def put(name: str, data: bytes) -> None:
        client.bucket(BUCKET).blob(f"{KEY}/{name}").upload_from_string(data)

    for name, data in files_of(model).items():
        put(name, data)
    client.bucket(BUCKET).blob("files/one.bin").upload_from_string(b"one")
    return Shelf(f"gs://{BUCKET}/{KEY}", url, gcs_variables, put)


def gcs_variables(url: str) -> dict[str, str]:
    return {"STORAGE_EMULATOR_HOST": url}


def log_model(url: str, model: Path) -> Registry:
    """Log it as a run's artifacts and as a model of MLflow 3, registered with an alias."""
    import mlflow.pyfunc

    # Not by `set_tracking_uri`, which would go before the variables of the tests.
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("MLFLOW_TRACKING_URI", url)
        warnings.simplefilter("ignore")
        with mlflow.start_run() as run:
            mlflow.log_artifacts(str(model), "plain")
            mlflow.log_dict({"one": 1}, "one.json")
            info = mlflow.pyfunc.log_model(
                name="weighty",
                python_model=mlflow.pyfunc.load_model(str(model)).unwrap_python_model(),
                artifacts={"weights": str(next(model.rglob("weights.bin")))},
                registered_model_name="weighty",
                pip_requirements=[],
            )
            client = mlflow.MlflowClient()
            client.set_registered_model_alias("weighty", "champion", "1")

    def put(name: str, data: bytes) -> None:
        import requests

        root = f"{url}/api/2.0/mlflow-artifacts/artifacts"
        path = f"{run.info.experiment_id}/{run.info.run_id}/artifacts/plain/{name}"
        requests.put(f"{root}/{path}", data=data, timeout=30).raise_for_status()

    address = f"runs:/{run.info.run_id}/plain"
    shelf = Shelf(address, url, mlflow_variables, put)
    return Registry(shelf, run.info.run_id, str(info.model_id), "weighty")


def mlflow_variables(url: str) -> dict[str, str]:
    return {"MLFLOW_TRACKING_URI": url}
