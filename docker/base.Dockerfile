# The server without a model: docker/Dockerfile builds on it. Plain syntax, so that kaniko,
# buildah and docker build it alike; the context is the repository's root.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}

# libgomp1: LightGBM and XGBoost load the system's OpenMP. Its version is the base image's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

# A numeric user, since Kubernetes' runAsNonRoot cannot tell what a name stands for.
RUN groupadd --gid 1000 pyfunc \
    && useradd --uid 1000 --gid 1000 --create-home --shell /usr/sbin/nologin pyfunc \
    && mkdir /model \
    && chown 1000:1000 /model

ENV PATH=/opt/merlin-model/bin:${PATH} \
    MLFLOW_DISABLE_TELEMETRY=true \
    MODEL_DIR=/model \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

COPY setup.py pyproject.toml LICENSE /opt/pyfuncserver/
COPY pyfuncserver /opt/pyfuncserver/pyfuncserver
RUN python -m venv /opt/merlin-model \
    && python -m pip install --no-cache-dir /opt/pyfuncserver

COPY run.sh /usr/local/bin/run.sh
RUN chmod 0755 /usr/local/bin/run.sh

WORKDIR /home/pyfunc
USER 1000:1000

# HTTP, gRPC
EXPOSE 8080 9000

# A model mounted at /model is served as it is.
CMD ["run.sh"]
