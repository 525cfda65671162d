# Two stages: wheels are built where there is a compiler; what runs has none.
FROM python:3.11-slim AS build
WORKDIR /src
# Dependencies before code: they change seldom, so this layer is kept.
COPY pyproject.toml README.md LICENSE ./
COPY service/__init__.py service/__init__.py
RUN python -c "import tomllib; print('\n'.join(tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']))" > requirements.txt \
 && pip wheel --no-cache-dir --wheel-dir /wheels -r requirements.txt
COPY service service
COPY training training
COPY models models
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
LABEL org.opencontainers.image.title="speech-qc" \
      org.opencontainers.image.description="Real-time speech quality control" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-index --find-links /wheels speech-qc && rm -rf /wheels \
 && useradd --system --uid 10001 speechqc
USER 10001
# Inside a container every address is reached from outside, so without keys it does not start unless it is told that the
# port is published on loopback alone: docker run -p 127.0.0.1:8000:8000 -e SPEECHQC_ALLOW_ANONYMOUS=true speech-qc
ENV SPEECHQC_HOST=0.0.0.0 PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=2)"]
CMD ["speech-qc", "serve"]
