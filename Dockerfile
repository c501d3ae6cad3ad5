# broker_jobs with all of its extras, run by a user without privileges. Add your jobs on top:
#
#     FROM broker-jobs
#     COPY --chown=root:root . /app
#     RUN /venv/bin/pip install --no-cache-dir -r requirements.txt     # as USER root, if there are any
#
ARG PYTHON=3.13-slim

FROM python:${PYTHON} AS build
WORKDIR /build
RUN python -m venv /venv
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml README.md LICENSE ./
COPY broker_jobs ./broker_jobs
RUN /venv/bin/pip install ".[all]"

FROM python:${PYTHON}
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent broker-jobs
COPY --from=build /venv /venv
COPY deploy/rabbitmq/definitions.py deploy/healthy.py /usr/local/lib/broker-jobs/
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
USER 10001:10001

# For a worker, coordinator or beat; the dashboard has a port of its own. Other containers scrape /metrics here.
ENV BROKER_JOBS_METRICS_HOST=0.0.0.0 BROKER_JOBS_METRICS_PORT=9100
EXPOSE 9100 8700
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "/usr/local/lib/broker-jobs/healthy.py"]

STOPSIGNAL SIGTERM
ENTRYPOINT ["broker-jobs"]
CMD ["--help"]
