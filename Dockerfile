FROM python:3.13-slim

# Outside of a container the health endpoints are on loopback only; here they are asked from outside.
ENV PYTHONUNBUFFERED=1 \
    HEALTH_HOST=0.0.0.0

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir . './src/feature_service[health]' \
    && useradd --system --no-create-home --shell /usr/sbin/nologin service

USER service
EXPOSE 8080

# /live, not /ready: a restart brings no broker back, and loses the vectors that wait for it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/live', timeout=4)"]

CMD ["feature-service", "run"]
