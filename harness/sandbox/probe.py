"""Which tier works here: each is really set up and really attacked, before anything is generated or scored.

Tier 1 (namespaces), else tier 2 (Landlock), else a refusal that names each cause and the remedy. Never nothing at all
in place of something, unless `unsafe` asks for it.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from pathlib import Path

from harness.errors import BenchError
from harness.sandbox.pool import Problem, Program, Sandbox, SandboxFailed

ANSWER = Problem("answer", "def f(x):\n", "f", "def check(candidate):\n    assert candidate(20) == 41\n")
# each returns True if its attack took effect; @FILE@ is a file of this user, @PARENT@ this process
ATTACKS = {
    "reads a file outside": "    return open('@FILE@').read() != ''\n",
    "writes a file outside": "    open('@FILE@', 'a').write('x')\n    return True\n",
    "changes a file's mode": "    import os\n    os.chmod('@FILE@', 0o777)\n    return True\n",
    "starts a process": "    import os\n    if os.fork() == 0: os._exit(0)\n    return True\n",
    "runs a command": "    import os\n    return os.system('true') == 0\n",
    "opens a socket": "    import socket\n    socket.socket()\n    return True\n",
    "signals another process": "    import os\n    os.kill(@PARENT@, 0)\n    return True\n",
    "uses 800 MiB": "    return len(bytearray(800 << 20)) > 0\n",
    "sees the environment": "    import os\n    return len(os.environ) > 0\n",
}
ATTACK = Problem("attack", "def f():\n", "f", "def check(candidate):\n    assert candidate() is True\n")
FORGED = {
    "passes by exiting": "    import os; os._exit(0)\n",
    "passes by equality": "    class E(int):\n        def __eq__(self, other): return True\n    return E()\n",
}
SECONDS = 20.0  # for each honest program and attack: a busy machine is not a broken one


class NoSandbox(BenchError):
    """Untrusted code would have to run without isolation, so nothing is run."""

    exit_code = 2


def failure(tier: str) -> str | None:
    """Why a tier can't be relied on here; None when it holds."""
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} has neither Linux namespaces nor Landlock"
    secret = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="sandbox-probe-") as folder, Sandbox(tier) as box:
        file = Path(folder) / "file"
        file.write_text(secret)
        # nobody but the sandbox may be what keeps programs away from it
        Path(folder).chmod(0o777)
        file.chmod(0o666)
        sources = [text.replace("@FILE@", str(file)).replace("@PARENT@", str(os.getpid())) for text in ATTACKS.values()]
        programs = [Program(ANSWER, "    return 2 * x + 1\n"), Program(ANSWER, "    return 2 * x\n")]
        programs += [Program(ANSWER, text) for text in FORGED.values()] + [Program(ATTACK, text) for text in sources]
        try:
            verdicts = dict(box.judge(programs, SECONDS))
            endless = next(box.judge([Program(ANSWER, "    while True: pass\n")], 0.3))[1]
        except SandboxFailed as error:
            return str(error)
        if not verdicts[0].passed:
            return f"an honest program does not pass ({verdicts[0].result})"
        if verdicts[1].passed or endless.result != "timed out":
            return "a wrong program passes, or an endless one is not stopped"
        names = ["", "", *FORGED, *ATTACKS]
        through = [name for index, name in enumerate(names) if name and verdicts[index].passed]
        if through or file.read_text() != secret:
            return f"a program {' and '.join(through)} in spite of it"
    return None


def choose(unsafe: bool = False) -> str:
    """The best tier that holds: `namespaces`, `landlock`, or, only if unsafe, `none`. Raises NoSandbox."""
    causes = {}
    for tier in ("namespaces", "landlock"):
        cause = failure(tier)
        if cause is None:
            return tier
        causes[tier] = cause
    if unsafe:
        return "none"
    raise NoSandbox(refusal(causes))


def demand(tier: str) -> str:
    """The tier itself if it holds. Raises NoSandbox."""
    cause = failure(tier)
    if cause is not None:
        raise NoSandbox(refusal({tier: cause}))
    return tier


def refusal(causes: dict[str, str]) -> str:
    reasons = "; ".join(f"{tier}: {cause}" for tier, cause in causes.items())
    if sys.platform.startswith("linux"):
        remedy = (
            "allow unprivileged user namespaces (Ubuntu 24.04: sysctl kernel.apparmor_restrict_unprivileged_userns=0; "
            "Docker: --security-opt seccomp=unconfined), or use a kernel from 5.13 on with Landlock switched on"
        )
    else:
        remedy = "score on a Linux machine"
    return f"no sandbox for untrusted code here ({reasons}). Remedy: {remedy}. --allow-unsafe runs it without isolation"
