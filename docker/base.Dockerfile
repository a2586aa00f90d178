# What every model's image stands on: Python, a user, and the script that starts the server. The
# server itself is installed into the model's environment, by docker/Dockerfile. Plain syntax, so
# that kaniko, buildah, podman and docker build it alike; the context is the repository's root.
#
# Build one for each Python that models are logged with:
#   --build-arg PYTHON_IMAGE=docker.io/library/python:3.10-slim-bookworm
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}

COPY run.sh /usr/local/bin/run.sh

# libgomp1: LightGBM and XGBoost load the system's OpenMP. Its version is the base image's.
# A numeric user, since Kubernetes' runAsNonRoot cannot tell what a name stands for.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log \
    && groupadd --gid 1000 pyfunc \
    && useradd --uid 1000 --gid 1000 --create-home --shell /usr/sbin/nologin pyfunc \
    && chmod 0755 /usr/local/bin/run.sh

ENV PATH=/opt/merlin-model/bin:${PATH} \
    MLFLOW_DISABLE_TELEMETRY=true \
    MODEL_DIR=/model \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

WORKDIR /home/pyfunc
USER 1000:1000
