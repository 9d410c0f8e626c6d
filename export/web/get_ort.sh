#!/bin/sh
# onnxruntime-web, of package.json's version, from npm: the three files that the page needs.
#   sh get_ort.sh FOLDER
set -eu
page=$(cd "$(dirname "$0")" && pwd)
version=$(sed -n 's/.*"onnxruntime-web": "\([0-9.]*\)".*/\1/p' "$page/package.json")
mkdir -p "$1"
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
npm pack --silent --pack-destination "$made" "onnxruntime-web@$version" > "$made/name"
tar -xzf "$made/$(tail -n 1 "$made/name")" -C "$made"
for file in ort.wasm.min.mjs ort-wasm-simd-threaded.mjs ort-wasm-simd-threaded.wasm; do
  cp "$made/package/dist/$file" "$1/"
done
echo "onnxruntime-web $version (MIT, Microsoft): $1"
