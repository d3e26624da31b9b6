# Danzar on Discord. The token comes at run time, never into the image: see compose.yaml.
#
#   docker build --target bot  -t danzar:bot  .    the bot alone: `!gpu` works, there is no vision
#   docker build               -t danzar:full .    all of it, with PyTorch
#
# docs/container.md says how large they are, what they can see, and how frames get in.

ARG DEBIAN=trixie

# --- what both images have ----------------------------------------------------------------------
FROM debian:${DEBIAN}-slim AS base

# tini hands SIGTERM on and reaps whatever the bot's children leave behind. Without the certificates
# Discord's can't be verified: the bot would never log in.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 tini \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/danzar/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    # The root file system is read-only; what libraries want to keep may be lost.
    MPLCONFIGDIR=/tmp/matplotlib \
    # compute: torch; utility: NVML, without which nobody's memory can be seen.
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# What is installed belongs to root; the bot may write to its two volumes and /tmp alone.
RUN useradd --system --uid 10001 --home-dir /app/data --shell /usr/sbin/nologin danzar \
    && install --directory --owner=danzar /app/data /app/models/pulled
WORKDIR /app

# --- packages: each file's hash is in the lock, and none is built here ---------------------------
FROM base AS bot-packages
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/danzar
COPY requirements/build.txt requirements/bot.txt /tmp/
RUN pip install --no-cache-dir --require-hashes --only-binary=:all: \
        --requirement /tmp/build.txt --requirement /tmp/bot.txt

FROM bot-packages AS vision-packages
COPY requirements/vision.txt /tmp/
RUN pip install --no-cache-dir --require-hashes --only-binary=:all: --requirement /tmp/vision.txt

# --- the bot alone ------------------------------------------------------------------------------
FROM base AS bot
COPY --from=bot-packages /opt/danzar /opt/danzar
COPY pyproject.toml README.md LICENSE ./
COPY danzar_gpu danzar_gpu
COPY bot bot
COPY cogs cogs
COPY models models
COPY config config
RUN pip install --no-cache-dir --no-index --no-deps --no-build-isolation --editable .
USER danzar
VOLUME ["/app/models/pulled", "/app/data"]
# Asks the running bot: is the gateway there, is the newest reading young, does vision live?
HEALTHCHECK --interval=1m --timeout=15s --start-period=2m --retries=3 CMD ["danzar", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "danzar"]

# --- all of it: the default ---------------------------------------------------------------------
FROM base AS full
# What OpenCV and the capture of an X11 screen load.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        libgl1 libglib2.0-0 libxcb1 libxcb-randr0 libxcb-render0 libxcb-shm0 libxcb-xfixes0 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=vision-packages /opt/danzar /opt/danzar
COPY pyproject.toml README.md LICENSE ./
COPY danzar_gpu danzar_gpu
COPY bot bot
COPY cogs cogs
COPY models models
COPY config config
RUN pip install --no-cache-dir --no-index --no-deps --no-build-isolation --editable .
USER danzar
VOLUME ["/app/models/pulled", "/app/data"]
HEALTHCHECK --interval=1m --timeout=15s --start-period=2m --retries=3 CMD ["danzar", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "danzar"]
