# Two images from one file: `docker build --target proxy .` and `docker build --target app .`
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
# A compiler for wheels that a platform lacks; it stays in this stage.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY requirements.lock requirements-build.lock ./
RUN python -m venv /opt/simplepro \
    && /opt/simplepro/bin/pip install --require-hashes -r requirements.lock \
    && python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md ./
COPY breaker breaker
COPY proxy proxy
COPY upstream_app upstream_app
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation -w /tmp/wheels . \
    && /opt/simplepro/bin/pip install --no-deps --no-index /tmp/wheels/*.whl \
    && /opt/simplepro/bin/pip uninstall -y pip setuptools

FROM python:3.11-slim-bookworm AS runtime
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin simplepro
COPY --from=build /opt/simplepro /opt/simplepro
ENV PATH=/opt/simplepro/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ENVIRONMENT=production
WORKDIR /srv
USER 10001
STOPSIGNAL SIGTERM

FROM runtime AS app
ENV HOST=0.0.0.0 PORT=4000
EXPOSE 4000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/api/health/live', timeout=4)"]
CMD ["simplepro-app", "run"]

FROM runtime AS proxy
COPY config /srv/config
ENV GLOBAL_LIMIT=100 PROXY_HOST=0.0.0.0 PROXY_PORT=8080 ADMIN_PORT=9901 POLICY=/srv/config/simplepro.yaml
EXPOSE 8080 9901
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"ADMIN_PORT\"]}/livez', timeout=4)"]
CMD ["sh", "-c", "exec simplepro-proxy run --policy \"$POLICY\""]
