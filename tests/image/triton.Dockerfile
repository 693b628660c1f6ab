# The image for a CPU, plus Triton and its kernels in the locked versions: what the image for CUDA is made of, without PyTorch for CUDA.
ARG BASE
# hadolint ignore=DL3006
FROM ${BASE}
USER 0
RUN --mount=type=bind,from=triton,target=/wheels \
    python3 -m venv /tmp/tools \
    && /tmp/tools/bin/pip --python /opt/venv/bin/python install --quiet --no-cache-dir --no-compile --no-deps --no-index /wheels/*.whl \
    && rm -rf /tmp/tools
