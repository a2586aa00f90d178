"""Package metadata; the tools are set up in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


def version() -> str:
    """Read `__version__` as text: importing the package would need what is being installed."""
    source = (HERE / "pyfuncserver" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if match is None:
        raise RuntimeError("pyfuncserver/__init__.py holds no __version__")
    return match.group(1)


def long_description() -> str:
    """Return the README, or nothing where only the package was copied (an image's build)."""
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


# What `pyfuncserver build` hands to a builder; a checkout has them where people look for them.
IMAGE_FILES = ["docker/base.Dockerfile", "docker/Dockerfile", "run.sh"]


class BuildPyWithImageFiles(build_py):
    """Copies the files of the image into the package; a checkout uses its own."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "pyfuncserver" / "image" / "files"
        target.mkdir(parents=True, exist_ok=True)
        for name in IMAGE_FILES:
            self.copy_file(str(HERE / name), str(target / Path(name).name))


# The server is installed into the environment of somebody's model, so ranges are wide: the
# lower ends fit mlflow 1.26 with protobuf 4, which Merlin's SDK pins, and there are no upper ends.
CORE = [
    "grpcio>=1.49",
    "grpcio-health-checking>=1.49",
    "grpcio-reflection>=1.49",
    "httptools>=0.6",
    "mlflow>=1.26",
    "orjson>=3.9",
    "prometheus-client>=0.16",
    "protobuf>=4.22",  # message_factory.GetMessageClass
    "pydantic-settings>=2.2",
    "tornado>=6.2",
    "uvloop>=0.18",  # uvloop.run
]

EXTRAS = {
    # The public UPI messages. Where they are installed the server uses them, not its own copy.
    "upi": ["caraml-upi-protos>=0.3.1"],
    # Parquet in MLflow's scoring protocol; full MLflow, since 2.0, brings it along.
    "parquet": ["pyarrow>=10"],
    # Models in S3 and in Google's storage; MLflow asks for these libraries by itself.
    "s3": ["boto3>=1.28"],
    "gcs": ["google-cloud-storage>=2.10"],
    # What `make test-stores` runs with, in an environment of its own.
    "test-stores": [
        "boto3>=1.28",
        "gcp-storage-emulator>=2024.8",
        "google-cloud-storage>=2.10",
        "hypothesis>=6.100",
        "moto[server,s3]>=5.0",
        "pytest>=8.0",
        "pytest-timeout>=2.3",
    ],
    # Models that were saved without MLflow, by their kind.
    "sklearn": ["scikit-learn>=1.3", "skops>=0.10"],
    "xgboost": ["xgboost>=2.0"],  # or xgboost-cpu, which is smaller
    "lightgbm": ["lightgbm>=4.0"],
    "onnx": ["onnxruntime>=1.17"],
    "huggingface": ["torch>=2.1", "transformers>=4.40"],
    # What `make test-kinds` runs with, in an environment of its own.
    "test-kinds": [
        "hypothesis>=6.100",
        "lightgbm>=4.0",
        "onnx>=1.16",
        "onnxruntime>=1.17",
        "pytest>=8.0",
        "pytest-timeout>=2.3",
        "scikit-learn>=1.3",
        "skl2onnx>=1.17",
        "skops>=0.10",
        "xgboost-cpu>=2.1",
    ],
    # Spans of predictions, sent by OTLP over gRPC or HTTP. MLflow has the SDK since 2.14.
    "tracing": ["opentelemetry-sdk>=1.24", "opentelemetry-exporter-otlp>=1.24"],
    # mypy and ruff are held to a minor version: the next one finds, and formats, other things.
    "dev": [
        "h2>=4.1",
        "hypothesis>=6.100",
        "import-linter>=2.0",
        "mypy~=2.4",
        "openapi-spec-validator>=0.7",
        "opentelemetry-exporter-otlp>=1.24",
        "py-rattler~=0.28.0",
        "pytest>=8.0",
        "pytest-benchmark>=4.0",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.5",
        "ruff~=0.17.5",
        "scikit-learn>=1.3",
        "types-grpcio>=1.0",
        "types-grpcio-health-checking>=1.0",
        "types-grpcio-reflection>=1.0",
        "types-protobuf>=4.24",
    ],
}

setup(
    name="pyfuncserver",
    version=version(),
    description="Serves an MLflow model over HTTP and gRPC; fits where Merlin's pyfunc-server was.",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: No Input/Output (Daemon)",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["pyfuncserver", "pyfuncserver.*"]),
    cmdclass={"build_py": BuildPyWithImageFiles},
    package_data={"pyfuncserver": ["py.typed", "codec/*.binpb", "protocol/rest/assets/*"]},
    python_requires=">=3.10,<3.14",
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["pyfuncserver = pyfuncserver.__main__:main"]},
    zip_safe=False,
)
