"""Folders in which a database is not safe: network drives and those that a cloud client copies."""

from __future__ import annotations

from pathlib import Path

_NETWORK_TYPES = frozenset(
    {
        *("9p", "afs", "afpfs", "beegfs", "ceph", "cifs", "davfs", "glusterfs", "gpfs", "lustre"),
        *("ncpfs", "nfs", "nfs4", "smb3", "smbfs", "sshfs", "fuse.drive", "fuse.gcsfuse"),
        *("fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    }
)
_CLOUD_NAMES = {
    "dropbox": "Dropbox",
    "onedrive": "OneDrive",
    "icloud": "iCloud",
    "mobile documents": "iCloud",
    "com~apple~clouddocs": "iCloud",
    "google drive": "Google Drive",
    "googledrive": "Google Drive",
    "my drive": "Google Drive",
    "mydrive": "Google Drive",
    "cloudstorage": "a cloud drive",
    "box sync": "Box",
    "nextcloud": "Nextcloud",
    "owncloud": "ownCloud",
    "pcloud": "pCloud",
}


def risky_folder(directory: Path, mounts: str | None = None) -> str | None:
    """Why a memo is not safe in this folder, in a sentence; None: nothing known against it.

    Parameters
    ----------
    directory
        Absolute path.
    mounts
        Text in the form of /proc/mounts; None: that file, where there is one.
    """
    reason = None
    for part in directory.parts:
        low = part.casefold()
        for start, service in _CLOUD_NAMES.items():
            # "OneDrive - Company", "GoogleDrive-me@x.org", "Dropbox (Personal)"
            if low == start or (low.startswith(start) and not low[len(start)].isalnum()):
                reason = f"lies in a folder that {service} copies"
    if reason is None:
        kind = _file_system(directory, _read_mounts() if mounts is None else mounts)
        if kind in _NETWORK_TYPES:
            reason = f"lies on a network or shared file system ({kind})"
    if reason is None:
        return None
    return (
        f"the memo {directory} {reason}, where a database can be damaged or its locks fail. "
        "Put it on a local disk with options.home or the variable DATAFAST_NB_HOME"
    )


def _read_mounts() -> str:
    try:
        return Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _file_system(directory: Path, mounts: str) -> str | None:
    best, kind = -1, None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = Path(fields[1].replace("\\040", " "))
        if directory.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind
