#!/bin/sh
# Runs a command where nothing can be written but one folder, as the image runs with a read-only root and one volume.
# There is no folder for temporary files then, and the command has no rights beyond those of its user. Needs root.
#
#   unshare --mount tests/read_only.sh FOLDER COMMAND [ARGUMENT ...]
set -eu

folder=$(realpath "$1")
shift
mount --make-rprivate /
mount --bind "$folder" "$folder"
cut -d ' ' -f 5 /proc/self/mountinfo | while read -r escaped; do
    point=$(printf '%b' "$escaped")
    # One that is covered by another cannot be named any more, nor written to.
    [ "$point" = "$folder" ] || mount -o remount,bind,ro "$point" 2>/dev/null || true
done
cd /
exec setpriv --bounding-set=-all --no-new-privs env -u TMPDIR -u TEMP -u TMP -u SQLITE_TMPDIR -u HOME "$@"
