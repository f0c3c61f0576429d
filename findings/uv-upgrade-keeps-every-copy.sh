#!/usr/bin/env bash
# uv 0.13.9 unpacks a wheel that it has in its cache once more for each `uv pip install --upgrade`, and keeps every copy.
#
# --upgrade implies --refresh, so that what is cached counts as old. In an empty environment it changes nothing of what is
# installed: without it the newest versions are taken as well. With torch for CUDA every such environment leaves 6.5 GB
# in the cache that are nowhere linked to; five of them filled a disk. `uv cache prune` removes all but the last.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet uv==0.13.9
export UV_CACHE_DIR="$folder/cache"
uv="$folder/venv/bin/uv"
install_in_empty_environment() {
  "$uv" venv --quiet --clear --python python3.11 "$folder/empty"
  "$uv" pip install --quiet --python "$folder/empty/bin/python" "$@" six==1.17.0
  echo "$* six: $(find "$folder/cache/archive-v0" -mindepth 1 -maxdepth 1 | wc -l) in the cache"
}
{
  "$uv" --version | cut -d ' ' -f 1,2
  for _ in 1 2 3; do install_in_empty_environment --upgrade; done
  for _ in 1 2; do install_in_empty_environment --no-deps; done
  "$uv" cache prune --quiet 2> /dev/null
  install_in_empty_environment --no-deps
} | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
uv 0.13.9
--upgrade six: 1 in the cache
--upgrade six: 2 in the cache
--upgrade six: 3 in the cache
--no-deps six: 3 in the cache
--no-deps six: 3 in the cache
--no-deps six: 1 in the cache
SEEN
