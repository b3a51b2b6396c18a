#!/bin/sh
# Runs a command with only one writable directory, like the image with a read-only root and one volume. The command has
# no temporary directory and no capabilities. Needs root.
#
#   unshare --mount tests/read_only.sh DIRECTORY COMMAND [ARGUMENT ...]
set -eu

directory=$(realpath "$1")
shift
mount --make-rprivate /
mount --bind "$directory" "$directory"
cut -d ' ' -f 5 /proc/self/mountinfo | while read -r escaped; do
    point=$(printf '%b' "$escaped")
    # The remount fails for a mount point hidden by another mount, which cannot be written to anyway.
    [ "$point" = "$directory" ] || mount -o remount,bind,ro "$point" 2>/dev/null || true
done
cd /
exec setpriv --bounding-set=-all --no-new-privs env -u TMPDIR -u TEMP -u TMP -u SQLITE_TMPDIR -u HOME "$@"
