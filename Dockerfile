# The image of the API, the worker and all commands. Two stages: what builds does not travel.
FROM python:3.12-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_ROOT_USER_ACTION=ignore
RUN apt-get update \
    && apt-get install --yes --no-install-recommends binutils \
    && python -m venv /opt/build \
    && python -m venv /opt/eventcore
WORKDIR /build
COPY requirements/build.txt requirements/runtime.txt requirements/
# Wheels carry debug symbols and the C that Cython wrote, more than half of what they weigh.
RUN /opt/build/bin/pip install --require-hashes --only-binary :all: --requirement requirements/build.txt \
    && /opt/eventcore/bin/pip install --require-hashes --only-binary :all: --requirement requirements/runtime.txt \
    && find /opt/eventcore/lib -name '*.c' -delete \
    && find /opt/eventcore/lib -name '*.so*' -type f -exec strip --strip-unneeded '{}' +
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/eventcore/bin/pip install --no-deps --no-index dist/*.whl \
    && /opt/eventcore/bin/pip check \
    && /opt/eventcore/bin/pip uninstall --yes pip


FROM python:3.12-slim-bookworm

ENV PATH=/opt/eventcore/bin:$PATH PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin eventcore \
    && mkdir /data && chown eventcore:eventcore /data
COPY --from=build /opt/eventcore /opt/eventcore
# Neither image nor wheels bring bytecode, and the user below may not write it: this leaves that of all that is used
# (Python's own library included), which is worth seconds at each start and most of the cost of a health check.
RUN python -c "import http.client, entrypoints.cli.start, entrypoints.cli.main, entrypoints.http.serve, entrypoints.worker.run" \
    && python -c "import adapters.nats, adapters.postgres, adapters.redis, adapters.sqlite"
# By number, for those who check that it is not root.
USER 10001:10001
# Without other settings the store is a SQLite file under here: eventcore-data/eventcore.sqlite3.
WORKDIR /data
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/health/live'); exit(c.getresponse().status != 200)"]
ENTRYPOINT ["eventcore"]
CMD ["serve"]
