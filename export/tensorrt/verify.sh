#!/bin/sh
# Holds the engines of an export directory against onnxruntime on random input, on every GPU of this machine.
#
#   export/tensorrt/verify.sh DIR
exec "$(dirname "$0")/engines.sh" "$@" --verify
