# One image a service, of the service's name:
#   docker build --build-arg SERVICE=ingest --tag ragline-ingest:0.1.0 .
ARG SERVICE
# The lists in requirements/ are made for this Python on Linux.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
ARG SERVICE
WORKDIR /build
COPY requirements.lock requirements/${SERVICE}.txt ./
# The service's list says which packages; their hashes come from the one lock.
RUN awk 'NR == FNR { listed[$1]; next } /^[^ ]/ { keep = $1 in listed } keep' ${SERVICE}.txt requirements.lock > service.lock \
    && python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement service.lock

FROM ${PYTHON_IMAGE} AS runtime
ARG SERVICE
# HOME is the one place that libraries may write to: the root file system is read-only where this runs.
# onnxruntime reports its use to its maker unless it is told not to.
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 \
    LITELLM_LOCAL_MODEL_COST_MAP=True ORT_DISABLE_TELEMETRY=1
WORKDIR /app
COPY --from=packages /opt/venv /opt/venv
COPY LICENSE ./
COPY ragline ragline
COPY services/__init__.py services/
COPY services/${SERVICE} services/${SERVICE}
RUN python -m compileall -q ragline services
USER 65532:65532
ENTRYPOINT ["python", "-m"]

FROM runtime AS ingest
EXPOSE 50051
CMD ["services.ingest"]

FROM runtime AS embed
EXPOSE 50052
CMD ["services.embed"]

FROM runtime AS retrieve
EXPOSE 50053
CMD ["services.retrieve"]

FROM runtime AS generate
EXPOSE 50050
CMD ["services.generate"]

FROM runtime AS eval
EXPOSE 50054
CMD ["services.eval"]

FROM ${SERVICE}
