# syntax=docker/dockerfile:1
# Danzar on Discord. The token comes at run time, never into the image: see compose.yaml.
FROM python:3.12-slim

# tini hands SIGTERM on and reaps the vision worker; the libraries are what OpenCV (imported by
# ultralytics) and the screen capture load.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        libgl1 libglib2.0-0 libxcb1 libxcb-randr0 libxcb-render0 libxcb-shm0 libxcb-xfixes0 tini \
    && rm -rf /var/lib/apt/lists/*

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    # compute: torch; utility: NVML, without which nobody's memory can be seen.
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# What is installed belongs to root; the bot may write to its two volumes and /tmp alone.
RUN useradd --system --uid 10001 --home-dir /app/data --shell /usr/sbin/nologin danzar \
    && install --directory --owner=danzar /app/data /app/models/pulled
WORKDIR /app

# The dependencies alone: this layer, by far the largest, is made anew only when they change.
COPY pyproject.toml ./
RUN python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > /tmp/requirements.txt \
    && pip install --requirement /tmp/requirements.txt \
    && rm /tmp/requirements.txt

COPY README.md LICENSE ./
COPY danzar_gpu danzar_gpu
COPY bot bot
COPY cogs cogs
COPY models models
COPY config config
RUN pip install --no-deps --editable .

USER danzar
VOLUME ["/app/models/pulled", "/app/data"]

# Can the program still be started, and its configuration and the driver be read? It doesn't ask
# the running bot: that the bot lives is what the container's own state says.
HEALTHCHECK --interval=2m --timeout=30s --start-period=1m --retries=3 \
    CMD danzar status --json > /dev/null

STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "danzar"]
