# What searches and serves, without the training stack: docs/serve-elsewhere.md.
FROM python:3.11-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY models models/
COPY pipeline pipeline/
COPY recipes recipes/
COPY stages stages/
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && python -m venv /opt/lookalike \
    && /opt/lookalike/bin/python -m pip install --no-cache-dir --constraint constraints.txt /wheels/*.whl

FROM python:3.11-slim-bookworm
COPY --from=build /opt/lookalike /opt/lookalike
ENV PATH=/opt/lookalike/bin:$PATH ORT_DISABLE_TELEMETRY=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# a number, so that an orchestrator sees that it is not root
USER 10001:10001
WORKDIR /index
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/v2/health/live', timeout=3)"]
ENTRYPOINT ["lookalike"]
# beyond loopback it asks for the token in LOOKALIKE_TOKEN, or for --open-to-all
CMD ["serve", "--index", "/index", "--host", "0.0.0.0", "--port", "8000"]
