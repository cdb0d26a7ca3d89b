#!/usr/bin/env bash
# Regenerates everything that is generated and fails, showing the difference,
# if that changes a file: what is committed is what the generators make.
set -euo pipefail
cd "$(dirname "$0")/.."

unformatted=$(gofmt -l $(git ls-files '*.go'))
if [ -n "$unformatted" ]; then
  printf 'not formatted (run make fmt):\n%s\n' "$unformatted" >&2
  exit 1
fi

before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
generated=(api/v1alpha1/zz_generated.deepcopy.go config/crd config/rbac/role.yaml charts docs/reference.md)
for path in "${generated[@]}"; do
  mkdir -p "$before/$(dirname "$path")"
  cp -r "$path" "$before/$path"
done
make --no-print-directory generate manifests charts >/dev/null
status=0
for path in "${generated[@]}"; do
  diff -ru "$before/$path" "$path" || status=1
done
if [ "$status" -ne 0 ]; then
  echo 'generated files differ from their sources: commit what make generate manifests charts has made' >&2
fi
exit "$status"
