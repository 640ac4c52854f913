# A copy of all that is kept, which is verified, under the time of its making; and the oldest ones go.
set -euo pipefail
copy="$COPIES/$(date --utc +%Y-%m-%dT%H-%M-%SZ)"
rm -rf "$COPIES"/*.unfinished
attractor backup "$copy.unfinished"
mv "$copy.unfinished" "$copy"
find "$COPIES" -mindepth 1 -maxdepth 1 -type d -name '*T*Z' | sort | head --lines="-$KEEP" | xargs --no-run-if-empty rm -r
