#!/bin/sh
# Runs a command with one writable folder only, like the image with a read-only root and one volume. There is no folder
# for temporary files, and the command has no capabilities. Needs root.
#
#   unshare --mount tests/read_only.sh FOLDER COMMAND [ARGUMENT ...]
set -eu

folder=$(realpath "$1")
shift
mount --make-rprivate /
mount --bind "$folder" "$folder"
cut -d ' ' -f 5 /proc/self/mountinfo | while read -r escaped; do
    point=$(printf '%b' "$escaped")
    # The remount fails for a mount point hidden by another mount, which cannot be written to anyway.
    [ "$point" = "$folder" ] || mount -o remount,bind,ro "$point" 2>/dev/null || true
done
cd /
exec setpriv --bounding-set=-all --no-new-privs env -u TMPDIR -u TEMP -u TMP -u SQLITE_TMPDIR -u HOME "$@"
