"""What a folder is on: SQLite's log needs memory that processes share, which network file systems do not have."""

import re
from pathlib import Path

NETWORK = frozenset(
    {
        *("afs", "beegfs", "ceph", "cifs", "davfs", "fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone"),
        *("fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"),
    }
)
MOUNTS = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")


def network_file_system(folder: Path, mounts: Path = MOUNTS) -> str:
    """The kind of network file system that the folder is on, or will be; empty for a local one, or an unknown one."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    place, kind = Path(), ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mounted = Path(_ESCAPED.sub(lambda code: chr(int(code[1], 8)), before.split()[4]))
        if folder.resolve().is_relative_to(mounted) and len(mounted.parts) >= len(place.parts):
            place, kind = mounted, after.split()[0]
    return kind if kind in NETWORK else ""
