# One image for everything: `rowlock worker`, `migrate`, `exporter`, `operator`. Yours is three lines:
#
#     FROM rowlock:0.1.0
#     COPY shop.py /app/
#     ENV ROWLOCK_APP=shop:app
#
# and with packages of your own (pip writes into /opt/rowlock, which only root may):
#
#     USER root
#     RUN pip install --no-cache-dir httpx
#     USER 10001:10001
#
# Build it with `docker build --build-arg VERSION=0.1.0 -t rowlock:0.1.0 .`; BuildKit is not needed.
# BASE is any image with python3 (3.11 or newer) and its venv module. BUILD_BASE, if given, is BASE with
# what only the build may know, such as a company's CA certificates and pip.conf.
ARG BASE=docker.io/library/python:3.13-slim-trixie
ARG BUILD_BASE=${BASE}

FROM ${BUILD_BASE} AS builder
# Another index than PyPI. An argument of this stage: it is in no layer or history of the image.
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# pip lives beside the environment it fills, so that it is not in the image.
RUN python3 -m venv tools && python3 -m venv --without-pip /opt/rowlock
COPY deploy/image image
RUN tools/bin/pip install --require-hashes --only-binary :all: -r image/build-requirements.txt \
 && tools/bin/pip --python /opt/rowlock/bin/python install \
      --require-hashes --only-binary :all: -r image/requirements.txt
COPY . source
RUN tools/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir wheels ./source \
 && tools/bin/pip --python /opt/rowlock/bin/python install --no-deps --no-index wheels/*.whl

FROM ${BASE}
# libpq and getpass look their user up by number.
RUN groupadd --gid 10001 rowlock \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin rowlock
COPY --from=builder /opt/rowlock /opt/rowlock
# Nothing can be written at run time, and some bases bring Python's own library uncompiled: what
# Rowlock uses of it is compiled now, once, instead of at every start of every process.
RUN /opt/rowlock/bin/python -c "import rowlock.cli.worker, rowlock.cli.worker_process, rowlock.cli.runs"
# PYTHONPATH finds the user's modules, PIP_PYTHON sends the base's pip into our environment.
ENV PATH=/opt/rowlock/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_PYTHON=/opt/rowlock/bin/python \
    HOME=/tmp
WORKDIR /app
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="rowlock" \
      org.opencontainers.image.description="Durable workflows written as plain Python functions on nothing but PostgreSQL" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 10001:10001
ENTRYPOINT ["rowlock"]
