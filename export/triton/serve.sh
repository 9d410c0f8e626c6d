#!/bin/sh
# Writes a model repository of an export directory and serves it with the Triton Inference Server.
#
#   TRITON_IMAGE=nvcr.io/nvidia/tritonserver:YY.MM-py3 export/triton/serve.sh DIR REPOSITORY [--engines] [--sources 2]
set -eu
: "${2:?usage: serve.sh DIR REPOSITORY [options of python -m ussfast.export.triton_server]}"
: "${TRITON_IMAGE:?the image of the server, whose TensorRT must be the one of the engines}"
directory=$1 repository=$2
shift 2
"${PYTHON:-python3}" -m ussfast.export.triton_server "$directory" -o "$repository" "$@"
exec docker run --rm --gpus all -p 8000:8000 -p 8001:8001 -p 8002:8002 \
  -v "$(realpath "$repository"):/models:ro" "$TRITON_IMAGE" tritonserver --model-repository=/models
