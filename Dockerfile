# Images of the service for CPUs and NVIDIA GPUs. Any builder works; BuildKit is not required.
#
#   docker build --target cpu -t speech-qc:cpu .
#   docker build --target gpu -t speech-qc:gpu .        # the CUDA libraries are wheels, about 2 GB
#
# Without --target the result is `cpu`, but the classic builder then also builds `gpu`, so name the target.
#
# deploy/constraints.txt pins the dependencies. They form a separate layer below the code, which is small and changes
# often.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

# A separate stage, so that the cache depends on the content of its output: pyproject.toml changes more often than the
# requirements in it.
FROM ${PYTHON_IMAGE} AS requirements
WORKDIR /requirements
COPY pyproject.toml deploy/requirements.py ./
RUN python requirements.py cpu > cpu.txt && python requirements.py gpu > gpu.txt

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY deploy/constraints.txt ./
RUN python -m venv --without-pip /opt/venv

# Wheels only: neither the build stages nor the images contain a compiler. The tests of NumPy and SciPy are removed
# because they are a quarter of the total size.
FROM build AS dependencies-cpu
COPY --from=requirements /requirements/cpu.txt requirements.txt
RUN python -m pip --python /opt/venv/bin/python install --no-compile --only-binary=:all: -r requirements.txt -c constraints.txt \
 && find /opt/venv/lib/python3*/site-packages/numpy /opt/venv/lib/python3*/site-packages/scipy -type d -name tests -prune -exec rm -r {} + \
 && python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib

# The project itself, laid out so that it can be copied over either environment.
FROM dependencies-cpu AS code
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY models models
RUN python -m pip wheel --no-deps --wheel-dir /wheels . \
 && python -m pip --python /opt/venv/bin/python install --no-compile --no-deps --no-index --prefix /code /wheels/*.whl \
 && python -m compileall -q --invalidation-mode unchecked-hash /code

FROM ${PYTHON_IMAGE} AS runtime
RUN groupadd --gid 10001 speechqc \
 && useradd --uid 10001 --gid speechqc --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin speechqc
# The service listens on every address, because a published port requires it; `-p` and API keys restrict access
# (docs/deployment.md). The file system may be read-only. By default, BLAS starts a thread for every core of the host,
# even if the container may use fewer.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OPENBLAS_NUM_THREADS=1 \
    ORT_DISABLE_TELEMETRY=1 \
    SPEECHQC_HOST=0.0.0.0
EXPOSE 8000
# Readiness, not only liveness: load balancers and `depends_on` wait for it. Skipping site-packages (-IS) saves a tenth
# of a second. A 401 counts as healthy: if /health needs a key (SPEECHQC_HEALTH_NEEDS_KEY), this check does not have it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
  CMD ["python", "-ISc", "import http.client as h, os, sys; c = h.HTTPConnection('127.0.0.1', int(os.environ.get('SPEECHQC_PORT', '8000')), timeout=2); c.request('GET', '/health/ready'); sys.exit(c.getresponse().status not in (200, 401))"]
STOPSIGNAL SIGTERM
CMD ["speech-qc", "serve"]

FROM runtime AS cpu
ENV SPEECHQC_DEVICE=cpu
COPY --from=dependencies-cpu /opt/venv /opt/venv
COPY --from=code /code /opt/venv
ARG PYTHON_IMAGE
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="speech-qc" \
      org.opencontainers.image.description="Real-time speech quality control, on the CPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/speech-qc/speech-qc" \
      org.opencontainers.image.documentation="https://github.com/speech-qc/speech-qc/blob/main/docs/deployment.md" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
USER 10001:10001

FROM build AS dependencies-gpu
COPY --from=requirements /requirements/gpu.txt requirements.txt
RUN python -m pip --python /opt/venv/bin/python install --no-compile --only-binary=:all: -r requirements.txt -c constraints.txt \
 && find /opt/venv/lib/python3*/site-packages/numpy /opt/venv/lib/python3*/site-packages/scipy -type d -name tests -prune -exec rm -r {} + \
 && python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib

FROM runtime AS gpu
# With `cuda`, the service does not start without a working GPU; with `auto`, it would fall back to the CPU. The two
# NVIDIA variables tell the NVIDIA container runtime which devices and driver components to expose.
ENV SPEECHQC_DEVICE=cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=dependencies-gpu /opt/venv /opt/venv
COPY --from=code /code /opt/venv
ARG PYTHON_IMAGE
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="speech-qc" \
      org.opencontainers.image.description="Real-time speech quality control, on NVIDIA GPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/speech-qc/speech-qc" \
      org.opencontainers.image.documentation="https://github.com/speech-qc/speech-qc/blob/main/docs/deployment.md" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
USER 10001:10001

# hadolint ignore=DL3006
FROM cpu
