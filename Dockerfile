FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir . './src/feature_service[health]' \
    && useradd --system --no-create-home --shell /usr/sbin/nologin service

USER service
EXPOSE 8080

HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/health', timeout=4)"]

CMD ["feature-service", "run"]
