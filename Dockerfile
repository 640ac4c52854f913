# The server, on CPUs (target cpu, the default) or NVIDIA's GPUs (target cuda):
#     docker build --tag attractor .    docker build --target cuda --tag attractor:cuda .
# BASE is Debian, with Python 3.11 or newer: any mirror's, or one made by mmdebstrap where no registry is reached.
ARG BASE=docker.io/library/debian:bookworm-slim

# Wheels of client and server, with the native kernels compiled: the image needs no compiler.
FROM ${BASE} AS wheels
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/build
COPY . /source
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source /source/server

FROM wheels AS packages-cpu
RUN python3 -m venv /opt/attractor \
    && /opt/attractor/bin/pip install --no-cache-dir --no-compile --constraint /source/constraints.txt \
        --extra-index-url https://download.pytorch.org/whl/cpu /wheels/*.whl

FROM wheels AS packages-cuda
RUN python3 -m venv /opt/attractor \
    && /opt/attractor/bin/pip install --no-cache-dir --no-compile --constraint /source/constraints.txt /wheels/*.whl

# It writes to /tmp and /dev/shm, and to the folder that --data-dir names: the rest may be mounted to be read alone.
FROM ${BASE} AS runtime
LABEL org.opencontainers.image.title="Attractor" \
      org.opencontainers.image.description="A memory server whose memories are neural networks" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bash ca-certificates procps python3 tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 attractor \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin attractor
ENV PATH=/opt/attractor/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 7171
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s --interval=10s CMD ["python", "-c", "\
import os, sys, grpc\n\
from grpc_health.v1 import health_pb2, health_pb2_grpc\n\
with grpc.insecure_channel(f\"localhost:{os.environ.get('ATTRACTOR_PORT', 7171)}\") as channel:\n\
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)\n\
sys.exit(answer.status != health_pb2.HealthCheckResponse.SERVING)\n"]
ENTRYPOINT ["tini", "--", "attractor"]
CMD ["serve"]

FROM runtime AS cuda
COPY --from=packages-cuda /opt/attractor /opt/attractor

FROM runtime AS cpu
COPY --from=packages-cpu /opt/attractor /opt/attractor
