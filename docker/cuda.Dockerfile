# The service and its page on NVIDIA GPUs: one worker each (name them with --device cuda:0 --device cuda:1 ...).
#
#     docker build -f docker/cuda.Dockerfile -t humo:cuda .
#     docker run --rm -v humo:/data humo:cuda serve keys add me       # the key, shown once
#     docker run --gpus all --read-only --tmpfs /tmp -v humo:/data -p 8848:8848 humo:cuda
FROM python:3.11-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY examples ./examples
RUN python -m venv /opt/humo \
    && /opt/humo/bin/pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cu126 \
    && /opt/humo/bin/pip install --no-cache-dir ".[serve]"

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 1000 humo && mkdir /data && chown humo /data
COPY --from=build /opt/humo /opt/humo
ENV PATH=/opt/humo/bin:$PATH PYTHONUNBUFFERED=1 HUMO_SERVER=/data HUMO_MODELS=/data/models HUMO_IDENTITY=/data/identity HOME=/tmp
USER 1000
VOLUME /data
EXPOSE 8848
HEALTHCHECK --interval=30s --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8848/health')"]
ENTRYPOINT ["humo"]
CMD ["serve", "--ui", "--host", "0.0.0.0"]
