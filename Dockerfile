# The server, on CPUs (target cpu, the default) or NVIDIA's GPUs (target cuda):
#     make image    make image TARGET=cuda    docker build --target cuda --tag attractor:cuda .
# BASE is Debian, with Python 3.11 or newer: any mirror's, or one made by `make image-base` where no registry is reached.
ARG BASE=docker.io/library/debian:bookworm-slim

# Wheels of client and server, with the native kernels compiled: the image needs no compiler.
FROM ${BASE} AS wheels
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/build
COPY . /source
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source /source/server
# What is in the image, in the form of CycloneDX: /usr/share/sbom/attractor.cdx.json
RUN python3 -m venv /opt/sbom && /opt/sbom/bin/pip install --no-cache-dir cyclonedx-bom==7.5.0

FROM wheels AS packages-cpu
# Where wheels of PyTorch without CUDA are; empty where pip's own index has them
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python3 -m venv /opt/attractor \
    && /opt/attractor/bin/pip install --no-cache-dir --no-compile --constraint /source/constraints.txt \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} /wheels/*.whl \
    && /opt/sbom/bin/cyclonedx-py environment --output-reproducible --output-file /sbom.json /opt/attractor

FROM wheels AS packages-cuda
RUN python3 -m venv /opt/attractor \
    && /opt/attractor/bin/pip install --no-cache-dir --no-compile --constraint /source/constraints.txt /wheels/*.whl \
    && /opt/sbom/bin/cyclonedx-py environment --output-reproducible --output-file /sbom.json /opt/attractor

# It writes to /tmp and /dev/shm, and to the folder that --data-dir names: the rest may be mounted to be read alone.
FROM ${BASE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="Attractor" \
      org.opencontainers.image.description="A memory server whose memories are neural networks" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# bash and procps are for KubeRay, tini ends what Ray leaves behind
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bash ca-certificates procps python3 tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 attractor \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin attractor \
    && install --directory --owner 10001 --group 10001 /data
ENV PATH=/opt/attractor/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 \
    ATTRACTOR_DATA_DIR=/data/store ATTRACTOR_ADMIN_PORT=9090
USER 10001:10001
EXPOSE 7171 9090
STOPSIGNAL SIGTERM
# The admin port has no TLS, whatever the other one has
HEALTHCHECK --start-period=60s --interval=10s CMD ["python", "-c", "\
import os, urllib.request\n\
urllib.request.urlopen(f\"http://localhost:{os.environ['ATTRACTOR_ADMIN_PORT']}/readyz\", timeout=5)\n"]
ENTRYPOINT ["tini", "--", "attractor"]
CMD ["serve"]

FROM runtime AS cuda
COPY --from=packages-cuda /opt/attractor /opt/attractor
COPY --from=packages-cuda /sbom.json /usr/share/sbom/attractor.cdx.json

FROM runtime AS cpu
COPY --from=packages-cpu /opt/attractor /opt/attractor
COPY --from=packages-cpu /sbom.json /usr/share/sbom/attractor.cdx.json
