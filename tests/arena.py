"""The outer arena of hostile programs: a machine within the machine, made by util-linux, not by the code under test.

Its own mounts, processes, network and ipc; everything of the host read-only, and only what a program needs to start;
a sized tmpfs; address space and processes limited. So a hole in the sandbox, and the deliberately unsafe runner that
shows the attacks to bite, can't hurt the machine.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOBODY = 65534
TOOLS = ("unshare", "mount", "umount", "pivot_root", "setpriv", "prlimit")

SCRIPT = r"""
set -e
new=$1 user=$2 prefixes=$3; shift 3
mount -t tmpfs -o size=768m,nr_inodes=60000,mode=755 arena "$new"
for path in bin sbin lib lib32 lib64 libx32; do
  [ -L "/$path" ] && cp -P "/$path" "$new/$path" || true
done
for path in $prefixes; do
  [ -d "$path" ] && [ ! -L "$path" ] || continue
  mkdir -p "$new$path"
  mount --bind "$path" "$new$path"
  mount -o remount,bind,ro,nosuid "$new$path"
done
[ "$user" = 0 ] && [ -d "$new/root" ] && chmod 700 "$new/root" || true
mkdir -p "$new/proc" "$new/dev/shm" "$new/tmp" "$new/home/victim" "$new/old" "$new/etc"
echo root:x:0:0:root:/root:/bin/sh > "$new/etc/passwd"
mount -t proc proc "$new/proc"
for device in null zero random urandom; do
  touch "$new/dev/$device"; mount --bind "/dev/$device" "$new/dev/$device"
done
chmod 1777 "$new/tmp" "$new/dev/shm"; chmod 777 "$new/home/victim"
cd "$new"; pivot_root . old; umount -l old
cd /
"$1" -c 'import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 0x49))'  # SIOCSIFFLAGS: loopback up, to attack
if [ "$user" = 0 ]; then exec prlimit --as=6442450944 --core=0 -- "$@"; fi
exec setpriv --reuid "$user" --regid "$user" --clear-groups -- prlimit --as=6442450944 --nproc=3000 --core=0 -- "$@"
"""


@functools.cache
def missing() -> str:
    """Why there can be no arena here, or an empty string."""
    absent = [tool for tool in TOOLS if not shutil.which(tool)]
    if absent:
        return f"the outer arena needs util-linux: {', '.join(absent)} not found"
    probe = subprocess.run(["unshare", *_flags(), "true"], capture_output=True, text=True)
    return f"the outer arena can't be made: {probe.stderr.strip()}" if probe.returncode else ""


def users() -> list[int]:
    """Whose programs can be tested here: root's and an ordinary user's, or only those of the user we are."""
    return [0, NOBODY] if os.geteuid() == 0 else [os.geteuid()]


def _flags() -> list[str]:
    flags = ["--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child", "--propagation", "private"]
    return flags if os.geteuid() == 0 else ["--user", "--map-root-user", *flags]


def run(user: int, place: Path, arguments: list[str], timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run this Python with the arguments in an arena at the empty folder `place`, as that user (0: its root)."""
    own = [Path(sys.executable).parent, sys.prefix, sys.base_prefix, sysconfig.get_paths()["stdlib"], ROOT]
    prefixes = dict.fromkeys(["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", *map(str, own)])
    inside = user if os.geteuid() == 0 else 0  # an ordinary user is the only one there is in its own arena
    shell = ["sh", "-c", SCRIPT, "arena", str(place), str(inside), " ".join(prefixes), sys.executable, *arguments]
    return subprocess.run(
        ["unshare", *_flags(), *shell],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "ARENA_SECRET": "swordfish-in-the-environment"},
        cwd="/",
    )
