"""Programs that attack the machine: each `attack()` returns True only if it saw its own attack take effect.

Data, run only inside the outer arena, where @NAME@ is replaced: @HOME@ a victim's folder with `secret.txt`, @SECRET@ its
content, @PORT@ a listening socket, @PID@ a process of the same user, @PARENT@ the harness, @REPO@ this checkout.
Each is bounded by itself too, so that the deliberately unsafe runner can show that it bites.
"""

# ruff: noqa: E501
from __future__ import annotations

PROMPT = 'def attack():\n    """Attack."""\n'
TEST = "\ndef check(candidate):\n    assert candidate() is True\n"


def _tried(*lines: str) -> str:
    return "".join(f"    {line}\n" for line in lines)


FILES = {
    "read-secret": _tried("return '@SECRET@' in open('@HOME@/secret.txt').read()"),
    "read-secret-os": _tried("import os", "return b'@SECRET@' in os.read(os.open('@HOME@/secret.txt', 0), 100)"),
    "read-secret-ctypes": _tried(
        "import ctypes",
        "c = ctypes.CDLL(None); b = ctypes.create_string_buffer(100)",
        "return c.read(c.open(b'@HOME@/secret.txt', 0), b, 100) > 0",
    ),
    "read-secret-syscall": _tried(
        "import ctypes, os",
        "c = ctypes.CDLL(None)",
        "f = c.syscall(257, -100, b'@HOME@/secret.txt', 0)",
        "return os.read(f, 5) != b''",
    ),
    "read-secret-openat2": _tried(
        "import ctypes, os",
        "c = ctypes.CDLL(None)",
        "how = (ctypes.c_uint64 * 3)()",
        "f = c.syscall(437, -100, b'@HOME@/secret.txt', how, 24)",
        "return f >= 0 and os.read(f, 5) != b''",
    ),
    "read-secret-symlink": _tried("import os", "os.symlink('@HOME@/secret.txt', 'l')", "return open('l').read() != ''"),
    "read-secret-dotdot": _tried("import os", "return open('../' * 30 + '@HOME@/secret.txt'[1:]).read() != ''"),
    "list-home": _tried("import os", "return 'secret.txt' in os.listdir('@HOME@')"),
    "write-home": _tried("open('@HOME@/owned', 'w').write('x')", "import os", "return os.path.exists('@HOME@/owned')"),
    "overwrite-secret": _tried("open('@HOME@/spare.txt', 'r+').write('x')", "return True"),
    "truncate-secret": _tried("import os", "os.truncate('@HOME@/spare.txt', 1)", "return True"),
    "chmod-secret": _tried("import os", "os.chmod('@HOME@/spare.txt', 0o777)", "return True"),
    "touch-secret": _tried("import os", "os.utime('@HOME@/spare.txt', (1, 1))", "return True"),
    "delete-file": _tried("import os", "os.unlink('@HOME@/victim-1')", "return True"),
    "rename-file": _tried("import os", "os.rename('@HOME@/victim-2', '@HOME@/moved')", "return True"),
    "link-secret": _tried("import os", "os.link('@HOME@/secret.txt', '@HOME@/link')", "return True"),
    "make-folder": _tried("import os", "os.mkdir('@HOME@/folder')", "return True"),
    "make-fifo": _tried("import os", "os.mkfifo('@HOME@/fifo')", "return True"),
    "write-shared-memory": _tried("open('/dev/shm/owned', 'w').write('x')", "return True"),
    "write-library": _tried(
        "import typing, os",
        "f = os.path.join('@WRITABLE@', 'sitecustomize.py')",
        "open(f, 'w').write('')",
        "return True",
    ),
    "read-passwd": _tried("return 'root' in open('/etc/passwd').read()"),
    "read-answers": _tried("return b'canonical' in __import__('gzip').open('@ANSWERS@').read()"),
    "read-harness": _tried("return 'Sandbox' in open('@REPO@/harness/sandbox/pool.py').read()"),
    "read-tests": _tried("import os", "return 'tests' in os.listdir('@REPO@')"),
    "read-environment": _tried("import os", "return any('swordfish' in v for v in os.environ.values())"),
    "read-environment-proc": _tried("return b'swordfish' in open('/proc/@PARENT@/environ', 'rb').read()"),
    "read-environment-init": _tried("return b'swordfish' in open('/proc/1/environ', 'rb').read()"),
    "read-own-environment": _tried("return b'swordfish' in open('/proc/self/environ', 'rb').read()"),
    "read-parent-memory": _tried("f = open('/proc/@PARENT@/maps')", "return 'python' in f.read()"),
    "write-parent-memory": _tried("f = open('/proc/@PARENT@/mem', 'r+b', 0)", "return True"),
    "list-processes": _tried("import os", "return '@PID@' in os.listdir('/proc')"),
    "open-parent-descriptor": _tried("import os", "return len(os.listdir('/proc/@PARENT@/fd')) > 0"),
    "escape-chdir-root": _tried("import os", "os.chdir('@HOME@')", "return 'secret.txt' in os.listdir('.')"),
    "inherited-descriptors": _tried(
        "import os, stat",
        "for fd in range(3, 1024):",
        "    try: mode = os.fstat(fd).st_mode",
        "    except OSError: continue",
        "    if stat.S_ISDIR(mode) or stat.S_ISREG(mode): return True",
        "return False",
    ),
}

PROCESSES = {
    "fork": _tried("import os", "p = os.fork()", "if p == 0: os._exit(0)", "os.waitpid(p, 0)", "return True"),
    "fork-bomb": _tried(
        "import os, time",
        "made = 0",
        "for _ in range(150):",
        "    p = os.fork()",
        "    if p == 0: time.sleep(3); os._exit(0)",
        "    made += 1",
        "return made == 150",
    ),
    "vfork-libc": _tried("import ctypes, os", "p = ctypes.CDLL(None).fork()", "if p == 0: os._exit(0)", "return p > 0"),
    "clone-raw": _tried(
        "import ctypes, os",
        "c = ctypes.CDLL(None)",
        "p = c.syscall(56, 17, 0, 0, 0, 0)",
        "if p == 0: os._exit(0)",
        "return p > 0",
    ),
    "clone3-raw": _tried(
        "import ctypes, os",
        "c = ctypes.CDLL(None)",
        "a = (ctypes.c_uint64 * 11)(); a[4] = 17",
        "p = c.syscall(435, a, 88)",
        "if p == 0: os._exit(0)",
        "return p > 0",
    ),
    "subprocess": _tried("import subprocess", "return subprocess.run(['/bin/true']).returncode == 0"),
    "shell": _tried("import os", "return os.system('true') == 0"),
    "popen": _tried("import os", "return os.popen('echo hi').read() == 'hi\\n'"),
    "posix-spawn": _tried(
        "import os", "p = os.posix_spawn('/bin/true', ['true'], {})", "return os.waitpid(p, 0)[1] == 0"
    ),
    "multiprocessing": _tried(
        "import multiprocessing as m",
        "p = m.get_context('fork').Process(target=int); p.start(); p.join()",
        "return p.exitcode == 0",
    ),
    "exec-python": _tried("import os, sys", "os.execv('@PYTHON@', ['python', '-c', 'pass'])"),
    "survivor": _tried(
        "import os, time",
        "p = os.fork()",
        "if p == 0:",
        "    os.setsid()",
        "    if os.fork() == 0:",
        "        time.sleep(3); os._exit(0)",
        "    os._exit(0)",
        "return True",
    ),
    "survivor-daemon": _tried(
        "import subprocess", "subprocess.Popen(['sleep', '3'], start_new_session=True)", "return True"
    ),
    "kill-victim": _tried("import os", "os.kill(@PID@, 0)", "return True"),
    "stop-victim": _tried("import os, signal", "os.kill(@PID@, signal.SIGCONT)", "return True"),
    "kill-parent": _tried("import os", "os.kill(os.getppid(), 0)", "return True"),
    "kill-everything": _tried("import os", "os.kill(-1, 0)", "return True"),
    "kill-group": _tried("import os", "os.killpg(0, 0)", "return True"),
    "kill-by-tgkill": _tried("import ctypes", "return ctypes.CDLL(None).syscall(234, @PID@, @PID@, 0) == 0"),
    "kill-by-sigqueue": _tried("import ctypes", "return ctypes.CDLL(None).sigqueue(@PID@, 0, 0) == 0"),
    "kill-by-pidfd": _tried("import os", "os.pidfd_open(@PID@)", "return True"),
    "kill-by-fcntl": _tried(
        "import fcntl, os",
        "r, w = os.pipe()",
        "fcntl.fcntl(r, 10, 18)",
        "fcntl.fcntl(r, fcntl.F_SETOWN, @PID@)",
        "return fcntl.fcntl(r, fcntl.F_GETOWN) == @PID@",
    ),
    "kill-by-ioctl": _tried(
        "import fcntl, socket, struct",
        "a, b = socket.socketpair()",
        "fcntl.ioctl(a, 0x8901, struct.pack('i', @PID@))",
        "return True",
    ),
    "ptrace": _tried("import ctypes", "return ctypes.CDLL(None).ptrace(16902, @PID@, 0, 0) == 0"),
    "process-vm-readv": _tried(
        "import ctypes",
        "c = ctypes.CDLL(None, use_errno=True)",
        "b = ctypes.create_string_buffer(8)",
        "local = (ctypes.c_uint64 * 2)(ctypes.addressof(b), 8); remote = (ctypes.c_uint64 * 2)(0x10000, 8)",
        "c.process_vm_readv(@PID@, local, 1, remote, 1, 0)",
        "return ctypes.get_errno() in (0, 14)",
    ),
    "renice": _tried("import os", "os.setpriority(os.PRIO_PROCESS, @PID@, 5)", "return True"),
    "affinity": _tried("import os", "os.sched_setaffinity(@PID@, os.sched_getaffinity(0))", "return True"),
    "limits-of-victim": _tried("import resource", "resource.prlimit(@PID@, resource.RLIMIT_CORE)", "return True"),
    "raise-limits": _tried(
        "import resource",
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft - 1, 1), hard))",
        "return True",
    ),
    "cancel-parent-death": _tried("import ctypes", "return ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0"),
    "nice": _tried("import os", "os.nice(1)", "return True"),
}

KERNEL = {
    "tcp": _tried("import socket", "socket.create_connection(('127.0.0.1', @PORT@), 1)", "return True"),
    "udp": _tried(
        "import socket",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
        "return True",
    ),
    "listen": _tried("import socket", "s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()", "return True"),
    "unix-socket": _tried(
        "import socket", "s = socket.socket(socket.AF_UNIX); s.connect('@HOME@/socket')", "return True"
    ),
    "abstract-socket": _tried(
        "import socket", "s = socket.socket(socket.AF_UNIX); s.connect('\\0arena')", "return True"
    ),
    "netlink": _tried("import socket", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)", "return True"),
    "socket-by-number": _tried("import ctypes", "return ctypes.CDLL(None).syscall(41, 1, 1, 0) >= 0"),
    "user-namespace": _tried("import ctypes", "return ctypes.CDLL(None).unshare(0x10000000) == 0"),
    "memfd": _tried("import os", "os.memfd_create('x')", "return True"),
    "keyring": _tried("import ctypes", "return ctypes.CDLL(None).syscall(248, b'user', b'x', b'y', 1, -3) > 0"),
    "sysv-shared-memory": _tried("import ctypes", "return ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0"),
    "sysv-queue": _tried("import ctypes", "return ctypes.CDLL(None).msgget(0, 0o1600) >= 0"),
    "sysv-semaphore": _tried("import ctypes", "return ctypes.CDLL(None).semget(0, 1, 0o1600) >= 0"),
    "inotify": _tried("import ctypes", "return ctypes.CDLL(None).inotify_init() >= 0"),
    "userfault-or-bpf": _tried(
        "import ctypes",
        "c = ctypes.CDLL(None)",
        "return c.syscall(425, 1, (ctypes.c_uint64 * 15)()) >= 0 or c.syscall(444, 0, 0, 1) >= 1",
    ),
    "seccomp-more": _tried("import ctypes", "return ctypes.CDLL(None).prctl(38, 1, 0, 0, 0) == 0"),
    "lock-shared-file": _tried(
        "import fcntl, typing", "f = open(typing.__file__); fcntl.flock(f, fcntl.LOCK_SH)", "return True"
    ),
    "personality": _tried("import ctypes", "return ctypes.CDLL(None).personality(0x0040000) >= 0"),
    "int80": _tried(
        "import ctypes, mmap",
        "m = mmap.mmap(-1, 4096, prot=7)",
        "m.write(b'\\x53\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\x5b\\xc3')",  # push rbx; mov eax, 20 (getpid of i386); int 0x80; pop; ret
        "f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))",
        "return f() > 0",
    ),
}

RESOURCES = {
    "memory-bytes": _tried("x = bytearray(900 << 20)", "x[::4096] = b'x' * len(x[::4096])", "return True"),
    "memory-list": _tried("x = []", "for _ in range(900): x.append(b'x' * (1 << 20))", "return True"),
    "memory-map": _tried("import mmap", "m = [mmap.mmap(-1, 64 << 20) for _ in range(14)]", "return True"),
    "memory-stack": _tried(
        "import sys, threading",
        "threading.stack_size(600 << 20)",
        "t = threading.Thread(target=int); t.start(); t.join()",
        "return True",
    ),
    "threads": _tried(
        "import threading, time",
        "threading.stack_size(32768)",
        "ts = []",
        "for _ in range(2500):",
        "    t = threading.Thread(target=time.sleep, args=(2,), daemon=True); t.start(); ts.append(t)",
        "return True",
    ),
    "disk-one-file": _tried(
        "f = open('big', 'wb')", "for _ in range(48): f.write(bytes(1 << 20))", "f.flush()", "return True"
    ),
    "disk-many-files": _tried("for i in range(2000): open(f'f{i}', 'w').close()", "return True"),
    "disk-many-full": _tried("for i in range(80): open(f'f{i}', 'wb').write(bytes(1 << 20))", "return True"),
    "disk-links": _tried(
        "import os", "open('a', 'w').close()", "for i in range(2000): os.link('a', f'l{i}')", "return True"
    ),
    "disk-symlinks": _tried("import os", "for i in range(2000): os.symlink('x' * 200, f'l{i}')", "return True"),
    "disk-folders": _tried("import os", "for i in range(1100): os.mkdir('d'); os.chdir('d')", "return True"),
    "disk-fallocate": _tried(
        "import os", "f = os.open('big', os.O_CREAT | os.O_WRONLY)", "os.posix_fallocate(f, 0, 48 << 20)", "return True"
    ),
    "disk-tmpfile": _tried(
        "import os",
        "fs = [os.open('.', os.O_TMPFILE | os.O_WRONLY) for _ in range(48)]",
        "return sum(os.write(f, bytes(1 << 20)) for f in fs) > 32 << 20",
    ),
    "descriptors": _tried("import os", "fs = [os.dup(0) for _ in range(200)]", "return True"),
    "pipes": _tried("import os, fcntl", "r, w = os.pipe()", "return fcntl.fcntl(w, 1031, 1 << 20) == 1 << 20"),
    "output": _tried(
        "import sys",
        "for _ in range(64): sys.stdout.write('x' * (1 << 20))",
        "sys.stdout.flush()",
        "import os",
        "return os.fstat(1).st_size >= 64 << 20",
    ),
    "cpu": _tried("while True: pass"),
    "cpu-in-c": _tried("return sum(range(10**13)) > 0"),
    "cpu-regex": _tried("import re", "return re.match('(a+)+$', 'a' * 60 + 'b') is None"),
    "cpu-power": _tried("return 9 ** 9 ** 9 > 0"),
    "sleep": _tried("import time", "time.sleep(3600)", "return True"),
    "sleep-catching": _tried("import time", "while True:", "    try: time.sleep(1)", "    except BaseException: pass"),
    "ignore-signals": _tried(
        "import signal",
        "for s in range(1, 32):",
        "    try: signal.signal(s, signal.SIG_IGN)",
        "    except OSError: pass",
        "while True: pass",
    ),
    "deadlock": _tried("import threading", "l = threading.Lock(); l.acquire(); l.acquire()"),
    "crash": _tried("import ctypes", "ctypes.string_at(0)"),
    "recursion-crash": _tried(
        "import sys", "sys.setrecursionlimit(10**8)", "a = []", "for _ in range(10**6): a = [a]", "return repr(a) != ''"
    ),
    "left-behind": _tried(
        "import os",
        "os.mkdir('d', 0); os.mkdir('e'); open('e/f', 'w').write('x'); os.symlink('/', 'e/l')",
        "return os.path.exists('/tmp/never')",
    ),
}

CATEGORIES = {"files": FILES, "processes": PROCESSES, "kernel": KERNEL, "resources": RESOURCES}
# that run until killed, or crash, instead of returning True; left-behind is an attack on the tidying
NEVER_TRUE = {"cpu", "cpu-in-c", "cpu-regex", "cpu-power", "sleep", "sleep-catching", "ignore-signals", "deadlock"}
CRASHING = {"crash", "recursion-crash"}
