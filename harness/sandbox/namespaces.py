"""Tier 1: own user, mount, pid, network, ipc, uts and cgroup namespaces around a minimal read-only root.

Root first becomes an unprivileged user, so that nothing inside ever runs as the host's uid 0: it builds the new root
while it may still read the interpreter (whose folder can lie below a home of mode 700), then changes its uid, and only
then makes the user namespace. An ordinary user makes the user namespace first, because it may mount inside only.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from harness.sandbox import linux, runtime
from harness.sandbox.linux import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
)

EVERYTHING = (
    CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
)  # the time namespace is left out: it shifts clocks and protects nothing
NOBODY = 65534
INSIDE_ID = 1000  # uid and gid that programs see
STAGE = "/dev"  # the new root is put together here, in a mount namespace of our own; sources are opened before
WORK = "/tmp"
WORK_BYTES, WORK_FILES = 16 << 20, 1024


def enter() -> None:
    """Put this process into its namespaces. Its next fork is process 1 in there. Raises OSError naming the call."""
    proc = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    if os.geteuid() == 0 and nobody_is_mapped():
        linux.unshare(CLONE_NEWNS)
        build_root()
        become_nobody()
        user = group = NOBODY
        linux.unshare(EVERYTHING)
        map_ids(proc, user, group)
    else:
        user, group = os.geteuid(), os.getegid()
        linux.unshare(EVERYTHING)
        map_ids(proc, user, group)
        build_root()
    os.close(proc)
    socket.sethostname("sandbox")
    options = f"size={WORK_BYTES},nr_inodes={WORK_FILES},mode=700"
    linux.mount("tmpfs", WORK, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)


def nobody_is_mapped() -> bool:
    """False in a user namespace (rootless container) without that uid: such a root is an ordinary user in truth."""
    for table in ("/proc/self/uid_map", "/proc/self/gid_map"):
        rows = [[int(field) for field in line.split()] for line in Path(table).read_text().splitlines()]
        if not any(start <= NOBODY < start + count for start, _, count in rows):
            return False
    return True


def become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    linux.prctl(linux.PR_SET_DUMPABLE, 1)  # else /proc/self belongs to root, and the id maps can't be written


def map_ids(proc: int, user: int, group: int) -> None:
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{INSIDE_ID} {user} 1"),
        ("gid_map", f"{INSIDE_ID} {group} 1"),
    ):
        file = os.open(name, os.O_WRONLY, dir_fd=proc)
        try:
            os.write(file, text.encode())
        except OSError as error:
            raise OSError(error.errno, f"{name}: {error.strerror}") from None
        finally:
            os.close(file)


def build_root() -> None:
    """Make a read-only root of the interpreter's files, four devices and an empty /tmp, and move into it."""
    linux.mount("none", "/", "", MS_REC | MS_PRIVATE)
    sources = [*runtime.standard_library(), *runtime.shared_libraries()]
    devices = [Path(p) for p in runtime.DEVICES]
    handles = {path: os.open(path, os.O_PATH) for path in [*sources, *devices]}
    linux.mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,nr_inodes=8192,mode=755")
    stage = Path(STAGE)
    (stage / WORK[1:]).mkdir()
    own = Path(f"/proc/{os.getpid()}/fd")
    for path, handle in handles.items():
        target = stage / path.relative_to("/")
        if target.exists():  # one of the folders lies in another
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch() if not path.is_dir() else target.mkdir()
        linux.mount(str(own / str(handle)), str(target), "", MS_BIND | MS_REC)
        if path in devices:
            flags = MS_NOSUID | MS_NOEXEC
        else:
            # flags the mount has already are locked for an ordinary user and must be given again
            flags = MS_NOSUID | MS_NODEV | (os.statvfs(target).f_flag & os.ST_NOEXEC)
        linux.mount("none", str(target), "", MS_REMOUNT | MS_BIND | MS_RDONLY | flags)
    for handle in handles.values():
        os.close(handle)
    for folder in runtime.standard_library():
        for name in runtime.HIDDEN:
            hidden = stage / folder.relative_to("/") / name
            if hidden.is_dir():
                linux.mount("tmpfs", str(hidden), "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k")
    linux.mount("none", STAGE, "", MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir(STAGE)
    linux.pivot_root(".", ".")  # the old root now lies on top of the new one; take it away
    linux.unmount(".", linux.MNT_DETACH)
    os.chdir("/")
