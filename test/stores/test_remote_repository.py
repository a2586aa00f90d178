"""A repository that is fetched: what is told of it, and models that are new there."""

from __future__ import annotations

from pathlib import Path

import boto3
from harness import Daemon
from shelves import S3_KEYS, files_of, s3_variables

BUCKET = "shelf-of-several"


def test_models_that_are_new_there(urls: dict[str, str], model: Path, tmp_path: Path) -> None:
    client = boto3.client("s3", endpoint_url=urls["s3"], **S3_KEYS)
    client.create_bucket(Bucket=BUCKET)

    def put(name: str, files: dict[str, bytes]) -> None:
        for path, data in files.items():
            client.put_object(Bucket=BUCKET, Key=f"all/{name}/{path}", Body=data)

    put("a/1", files_of(model))
    put("broken", {"MLmodel": b"spoilt"})
    env = {**s3_variables(urls["s3"]), "WORKERS": "2", "MODEL_CACHE_DIR": str(tmp_path / "cache")}
    with Daemon("", repository=f"s3://{BUCKET}/all", env=env) as daemon:
        entries = daemon.http("POST", "/v2/repository/index").json()
        reasons = {entry["name"]: entry["reason"] for entry in entries}
        assert reasons["a"] == ""
        assert f"the model s3://{BUCKET}/all/broken cannot" in reasons["broken"]
        put("new", files_of(model))
        assert daemon.http("POST", "/v2/repository/models/new/load").status == 200
        body = '{"instances": [[1, 2]]}'
        assert daemon.http("POST", "/v1/models/new:predict", body).status == 200
        answer = daemon.http("POST", "/v2/repository/models/nowhere/load")
        assert answer.status == 500
        assert f"s3://{BUCKET}/all has no model nowhere" in answer.json()["error"]
