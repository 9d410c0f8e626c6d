#!/bin/sh
# Engines of an export directory for every GPU of this machine; those that are there already are kept.
#
#   export/tensorrt/engines.sh DIR [options of python -m ussfast.export.trt]
set -eu
: "${1:?usage: engines.sh DIR [options of python -m ussfast.export.trt]}"
export CUDA_DEVICE_ORDER=PCI_BUS_ID  # as nvidia-smi counts them
for gpu in $(nvidia-smi --query-gpu=index --format=csv,noheader); do
  CUDA_VISIBLE_DEVICES="$gpu" "${PYTHON:-python3}" -m ussfast.export.trt "$@"
done
