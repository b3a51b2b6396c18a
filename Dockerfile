# The container image of the exporter:
#
#   docker build --build-arg "REVISION=$(git rev-parse HEAD)" -t braze-exporter .
#   docker run --rm -p 27293:27293 braze-exporter demo
#
# For the real Braze, see Docker in docs/operations.md.
# To build behind a proxy with its own CA: --secret id=ca,src=BUNDLE.pem --build-arg PIP_CERT=/run/secrets/ca
ARG BASE=python:3.13-slim-trixie

FROM ${BASE} AS build
ARG PIP_CERT
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# The build tools have their own environment, so that the exporter's environment contains only its packages.
RUN python3 -m venv /tools && python3 -m venv --without-pip /opt/braze-exporter
WORKDIR /build
# The dependencies have their own layer, which is rebuilt only if pyproject.toml changes. With wheels only, no compiler
# is needed, and no dependency runs code during the installation.
COPY pyproject.toml ./
RUN --mount=type=secret,id=ca python3 -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb')); \
print(*project['build-system']['requires'], sep='\n', file=open('/tools/requirements.txt', 'w')); \
print(*project['project']['dependencies'], *project['project']['optional-dependencies']['bcrypt'], sep='\n', \
file=open('requirements.txt', 'w'))" \
    && /tools/bin/pip install --only-binary :all: -r /tools/requirements.txt \
    && /tools/bin/pip --python /opt/braze-exporter/bin/python install --only-binary :all: -r requirements.txt
COPY README.md LICENSE ./
COPY braze_exporter braze_exporter
RUN /tools/bin/pip wheel --no-build-isolation --no-deps --wheel-dir dist . \
    && /tools/bin/pip --python /opt/braze-exporter/bin/python install --no-deps dist/*.whl \
    && /tools/bin/pip --python /opt/braze-exporter/bin/python check

FROM ${BASE}
# Nothing is installed at run time, so pip is removed. /var/lib/braze-exporter is the mount point for the volume of
# `state_file`: a new volume has the owner of this directory.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3.*/ensurepip /usr/local/lib/python3.*/site-packages/pip* \
    && install -d -o 65534 -g 65534 /var/lib/braze-exporter
COPY --from=build /opt/braze-exporter /opt/braze-exporter
# With glibc's default, each thread keeps memory that it has freed. So large responses would need it once per connection.
ENV PATH=/opt/braze-exporter/bin:$PATH MALLOC_ARENA_MAX=1
# The base image has no bytecode, and a read-only file system cannot cache it. This compiles the modules that a start
# imports.
RUN braze-exporter --version
# The default --config.file is config.yaml in this directory.
WORKDIR /etc/braze-exporter
# The user nobody. It is numeric, so that Kubernetes can verify that it is not root.
USER 65534:65534
EXPOSE 27293
# With another port or with TLS, use --no-healthcheck or a different --health-cmd.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
    CMD ["python", "-I", "-c", "import http.client, sys; \
c = http.client.HTTPConnection('127.0.0.1', 27293, timeout=4); \
c.request('GET', '/-/healthy'); \
sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["braze-exporter"]
CMD ["serve", "--config.file=/etc/braze-exporter/config.yaml"]
ARG VERSION=unknown
ARG REVISION=unknown
# The label `revision` of the metric braze_exporter_build_info.
ENV BRAZE_EXPORTER_REVISION=${REVISION}
LABEL org.opencontainers.image.title="braze-exporter" \
      org.opencontainers.image.description="Prometheus exporter for Braze: custom events, purchases, users and campaigns" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
