"""What docker/Dockerfile runs: ``python -m pyfuncserver.image fetch`` and ``... install``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from pyfuncserver.errors import StartupError
from pyfuncserver.image import artifacts, dependencies, slim
from pyfuncserver.image.dependencies import Dependencies
from pyfuncserver.image.environment import CONDA_TOOLS, Environment

MODEL, DEPENDENCIES, TOOLS = "model", "dependencies", "tools.txt"


def main(argv: list[str]) -> int:
    """Do one of the build's two steps; give the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.step(arguments)
    except StartupError as error:
        sys.stderr.write(f"pyfuncserver: {error}\n")
        return error.status
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pyfuncserver.image", description=__doc__)
    steps = parser.add_subparsers(required=True)
    fetch = steps.add_parser(
        "fetch", help=f"bring the model's files to --out, and in {TOOLS} what `install` will need"
    )
    fetch.set_defaults(step=_fetch)
    fetch.add_argument("--context", type=Path, required=True)
    fetch.add_argument("--artifacts", default="")
    fetch.add_argument("--dependencies", default="")
    fetch.add_argument("--storage_type", default="")
    fetch.add_argument("--out", type=Path, required=True)
    install = steps.add_parser("install", help="make the environment of the model in --out")
    install.set_defaults(step=_install)
    install.add_argument("--out", type=Path, required=True)
    install.add_argument("--wheels", type=Path, required=True)
    install.add_argument("--extras", default="")
    install.add_argument("--prefix", type=Path, required=True)
    return parser


def _fetch(arguments: argparse.Namespace) -> None:
    if not arguments.artifacts:
        raise StartupError("MODEL_ARTIFACTS_URL is not set: a path in the context, s3:// or gs://")
    artifacts.forget_empty(os.environ)
    artifacts.check_storage_type(arguments.storage_type, arguments.artifacts)
    model = arguments.out / MODEL
    arguments.out.mkdir(parents=True, exist_ok=True)
    artifacts.fetch(arguments.artifacts, arguments.context, model)
    if model.is_dir() and not (model / "MLmodel").is_file():
        sys.stdout.write(
            f"pyfuncserver: {arguments.artifacts} holds no MLmodel file: what it needs beside the "
            "server is what the server's extras bring\n"
        )
    if arguments.dependencies:
        artifacts.fetch(arguments.dependencies, arguments.context, arguments.out / DEPENDENCIES)
    if _asked(arguments.out).conda:
        (arguments.out / TOOLS).write_text("".join(f"{tool}\n" for tool in CONDA_TOOLS))


def _asked(out: Path) -> Dependencies:
    given = out / DEPENDENCIES
    if given.is_file():
        return dependencies.read(given)
    return dependencies.of_model(given if given.is_dir() else out / MODEL)


def _install(arguments: argparse.Namespace) -> None:
    model, asked = arguments.out / MODEL, _asked(arguments.out)
    wheel = next(arguments.wheels.glob("pyfuncserver-*.whl"), None)
    if wheel is None:
        raise StartupError(f"there is no wheel of the server in {arguments.wheels}")
    environment = Environment(arguments.prefix, sys.stdout)
    environment.make(asked)
    environment.install_model(asked, model)
    environment.install_server(wheel, arguments.extras)
    environment.check()
    saved = environment.slim()
    environment.compile()
    for what, size in (
        ("left out, since serving does not read it", saved),
        (str(arguments.prefix), slim.size_of(arguments.prefix)),
        (str(model), slim.size_of(model)),
    ):
        sys.stdout.write(f"pyfuncserver: {what}: {size / 1e6:.1f} MB\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
