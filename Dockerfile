# Images of the service, for the CPU and for NVIDIA GPUs. Any builder will do; nothing here needs BuildKit.
#
#   docker build --target cpu -t speech-qc:cpu .
#   docker build --target gpu -t speech-qc:gpu .        # the CUDA libraries come as wheels, some 2 GB
#
# Without --target it is `cpu`, too; the classic builder then builds `gpu` on its way, so say what you want.
#
# Dependencies have the versions of deploy/constraints.txt. They are a layer of their own below the code, which changes
# often and is small.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

# A stage of its own, whose results are compared by content: pyproject.toml changes more often than what it asks for.
FROM ${PYTHON_IMAGE} AS requirements
WORKDIR /requirements
COPY pyproject.toml deploy/requirements.py ./
RUN python requirements.py cpu > cpu.txt && python requirements.py gpu > gpu.txt

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY deploy/constraints.txt ./
RUN python -m venv --without-pip /opt/venv

# Wheels only: there is no compiler, neither here nor in what runs. The tests of NumPy and SciPy are a quarter of the whole.
FROM build AS dependencies-cpu
COPY --from=requirements /requirements/cpu.txt requirements.txt
RUN python -m pip --python /opt/venv/bin/python install --no-compile --only-binary=:all: -r requirements.txt -c constraints.txt \
 && find /opt/venv/lib/python3*/site-packages/numpy /opt/venv/lib/python3*/site-packages/scipy -type d -name tests -prune -exec rm -r {} + \
 && python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib

# The project itself, laid out so that it can be put over either environment.
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
# It listens to every address, as what is published must; who that may be is up to `-p` and to keys (docs/deployment.md).
# The file system may be read-only. BLAS would start a thread for every core of the host, which a container does not have.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OPENBLAS_NUM_THREADS=1 \
    ORT_DISABLE_TELEMETRY=1 \
    SPEECHQC_HOST=0.0.0.0
EXPOSE 8000
# Ready, not only alive: balancers and `depends_on` wait for it. Without site-packages it costs a tenth of a second less.
# 401: where health needs a key (SPEECHQC_HEALTH_NEEDS_KEY), which is not known here, that it answers has to do.
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
# `cuda` does not start without a working GPU, where `auto` would serve from the CPU. The two NVIDIA variables are for its
# container runtime: which devices and which parts of the driver the container sees.
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
