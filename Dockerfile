# foreman in a slim image, not as root. `docker run` it with FOREMAN_TOKEN set: it listens on all interfaces.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY foreman foreman
COPY workers workers
RUN python -m venv /opt/foreman && /opt/foreman/bin/pip install --no-cache-dir --disable-pip-version-check .

FROM python:3.13-slim
RUN useradd --uid 10001 --create-home foreman && install -d -o foreman -g foreman -m 0700 /data
COPY --from=build /opt/foreman /opt/foreman
ENV PATH=/opt/foreman/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FOREMAN_ADDR=:8080 \
    FOREMAN_DATA_DIR=/data
USER foreman
WORKDIR /home/foreman
VOLUME /data
EXPOSE 8080 7480
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['FOREMAN_ADDR'].rpartition(':')[2] + '/healthz', timeout=3)"]
CMD ["foreman", "serve"]
