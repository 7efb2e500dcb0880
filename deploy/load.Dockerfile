# A load generator: Vigil's image with Locust, for the profile `load` of compose.yaml.
ARG VIGIL_IMAGE=localhost/vigil:0.1.0
# The one that image was built on.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${VIGIL_IMAGE} AS vigil

FROM ${BASE_IMAGE}
# Where a network has an index or certificates of its own.
ARG PIP_INDEX_URL
ARG PIP_CERT
RUN groupadd --gid 10001 vigil \
    && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin vigil \
    && install --directory --owner 10001 --group 10001 /reports
COPY --from=vigil /app /app
COPY requirements/load.txt /app/load/
RUN python3 -m venv /tmp/pip \
    && /tmp/pip/bin/pip --python /app/venv/bin/python3 install --no-cache-dir --disable-pip-version-check \
    --no-deps --only-binary :all: --require-hashes -r /app/load/load.txt \
    && rm -r /tmp/pip
COPY loadtest /app/load/loadtest
ENV PATH=/app/venv/bin:${PATH} \
    PYTHONPATH=/app/load \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    HOME=/tmp
WORKDIR /app/load
USER 10001:10001
ENTRYPOINT ["python3", "-m", "locust", "--locustfile", "loadtest/locustfile.py", "--headless"]
