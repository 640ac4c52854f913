"""Folders and files that memories are kept in: whose they are, and what they are on.

SQLite's log needs memory that processes share, which network file systems do not have.
"""

import os
import re
from contextlib import suppress
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


def make_folder(folder: Path) -> None:
    """Makes the folder, and those above it that are missing, for this user alone, whatever the umask.

    Raises:
        OSError: it cannot be made.
    """
    for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
            path.chmod(0o700)
    folder.mkdir(exist_ok=True)


def make_file(path: Path) -> None:
    """Makes an empty file for this user alone, whatever the umask; one that is there is not touched.

    Raises:
        OSError: it cannot be made.
    """
    with suppress(FileExistsError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.fchmod(file, 0o600)
        os.close(file)
