# `ussfast serve` in a container, on CPUs or, with other arguments, on NVIDIA GPUs: docs/container.md says which.
ARG BUILD_IMAGE=python:3.11-slim
ARG IMAGE=python:3.11-slim

FROM ${BUILD_IMAGE} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=serve
# cpu, or cuda in an image with nvcc: what is asked for must succeed
ARG USSFAST_BUILD=cpu
# compilers beside each other; as many as there are cores if not given
ARG MAX_JOBS
ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && { command -v python3 || apt-get install -y --no-install-recommends python3 python3-dev python3-venv; } \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/ussfast
ENV PATH=/opt/ussfast/bin:$PATH
WORKDIR /src
# PyTorch first: the extension is compiled against the one that is installed, and this layer stays when only sources change.
COPY constraints.txt ./
RUN pip install -c constraints.txt --index-url "${TORCH_INDEX}" torch
RUN pip install -c constraints.txt numpy "setuptools>=77.0.3" wheel ninja
COPY pyproject.toml setup.py README.md LICENSE ./
COPY csrc csrc
COPY ussfast ussfast
RUN pip wheel --no-build-isolation --no-deps -w /wheels . \
    && pip install -c constraints.txt "$(echo /wheels/ussfast-*.whl)[${EXTRAS}]" \
    && pip uninstall -y wheel ninja
# One that does not load would be slow, and nobody would know why.
RUN cd / && FAIL_WITHOUT_EXT=1 python -c "import ussfast.ops"

FROM ${IMAGE}
# Debian packages: ffmpeg for more kinds of files; "gcc libc6-dev python3-dev" where Triton compiles its launchers
ARG PACKAGES=""
RUN if ! command -v python3 || [ -n "${PACKAGES}" ]; then \
      apt-get update \
      && { command -v python3 || DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3; } \
      && { [ -z "${PACKAGES}" ] || DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ${PACKAGES}; } \
      && rm -rf /var/lib/apt/lists/*; \
    fi
RUN groupadd --gid 10001 ussfast && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data ussfast \
    && install -d -o 10001 -g 10001 -m 0750 /data
COPY --from=build /opt/ussfast /opt/ussfast
# All that anything writes goes to /data, so that the rest may be read-only.
ENV PATH=/opt/ussfast/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    TMPDIR=/data \
    XDG_CACHE_HOME=/data/cache \
    USSFAST_CACHE=/data/cache/ussfast \
    TRITON_CACHE_DIR=/data/cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/data/cache/inductor \
    NUMBA_CACHE_DIR=/data/cache/numba \
    MPLCONFIGDIR=/data/cache/matplotlib \
    USSFAST_SERVE_DATA=/data/serve \
    USSFAST_SERVE_HOST=0.0.0.0 \
    USSFAST_SERVE_PORT=8400
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8400
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['USSFAST_SERVE_PORT'] + '/health', timeout=4)"]
ENTRYPOINT ["ussfast"]
CMD ["serve"]
