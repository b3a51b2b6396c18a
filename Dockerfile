# The exporter in a container:
#
#   docker build -t braze-exporter .
#   docker run --rm -p 27293:27293 braze-exporter demo
#   docker run -p 27293:27293 --read-only --cap-drop=ALL \
#     -v ./config.yaml:/etc/braze-exporter/config.yaml:ro -v ./braze_api_key:/run/secrets/braze_api_key:ro braze-exporter
#
# Behind a proxy with certificates of its own: --secret id=ca,src=BUNDLE.pem --build-arg PIP_CERT=/run/secrets/ca
ARG BASE=python:3.13-slim-trixie

FROM ${BASE} AS build
ARG PIP_CERT
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# The tools of the build have an environment apart, so that the exporter's holds nothing else, not even pip.
RUN python3 -m venv /tools && python3 -m venv --without-pip /opt/braze-exporter
WORKDIR /build
# The dependencies are a layer of their own: they are installed again only if pyproject.toml changes. Wheels alone are
# taken, so no compiler is needed and no dependency runs code while it is installed.
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
# Nothing is installed at run time, so the pip of the base goes too. A volume for `state_file` belongs in the directory
# that is made here: a new one takes its owner.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3.*/ensurepip /usr/local/lib/python3.*/site-packages/pip* \
    && install -d -o 65534 -g 65534 /var/lib/braze-exporter
COPY --from=build /opt/braze-exporter /opt/braze-exporter
ENV PATH=/opt/braze-exporter/bin:$PATH
# The base comes without bytecode, and a read-only file system keeps none: what a start imports is compiled here.
RUN braze-exporter --version
# Commands that are given no --config.file find config.yaml here.
WORKDIR /etc/braze-exporter
# nobody, by number, so that Kubernetes can see that it is not root.
USER 65534:65534
EXPOSE 27293
# A container that listens on another port, or by TLS, wants --no-healthcheck, or a --health-cmd of its own.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
    CMD ["python", "-I", "-c", "import http.client, sys; \
c = http.client.HTTPConnection('127.0.0.1', 27293, timeout=4); \
c.request('GET', '/-/healthy'); \
sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["braze-exporter"]
CMD ["serve", "--config.file=/etc/braze-exporter/config.yaml"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="braze-exporter" \
      org.opencontainers.image.description="Prometheus exporter for Braze: the counts of custom events as labelled gauges" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
