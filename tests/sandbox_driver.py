"""Runs inside the outer arena: hostile programs, agreement and load; prints one JSON document.

python tests/sandbox_driver.py battery TIER fast|all
python tests/sandbox_driver.py unsafe
python tests/sandbox_driver.py reference TIER
python tests/sandbox_driver.py agreement TIER COUNT
python tests/sandbox_driver.py load TIER COUNT
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import benign  # noqa: E402
import hostile_answers  # noqa: E402
import hostile_attacks  # noqa: E402

from harness.sandbox.pool import Problem, Program, Sandbox  # noqa: E402

NOBODY = 65534
HOME = Path("/home/victim")
TIMEOUT = 1.5
ADD = Problem("add", hostile_answers.PROMPT, "add", hostile_answers.TEST)
ATTACK = Problem("attack", hostile_attacks.PROMPT, "attack", hostile_attacks.TEST)
CLEAN = Program(ATTACK, "    import os\n    return os.listdir('.') == [] and len(os.environ) == 0\n")
# a few of each category, for a test of seconds
FAST_NAMES = """
    exit-os exit-sys exit-at-import exit-exec-true always-equal always-equal-int overwrite-check
    read-constants trace-jump forge-verdict close-everything huge-announced half-frame collisions nested
    descriptors-to-judge read-secret read-secret-syscall list-home overwrite-secret truncate-secret
    chmod-secret read-answers read-environment read-environment-proc inherited-descriptors write-shared-memory
    fork subprocess clone3-raw survivor kill-victim kill-by-fcntl kill-everything ptrace tcp abstract-socket
    user-namespace int80 memfd memory-bytes disk-many-full disk-many-files disk-folders descriptors output cpu
    sleep-catching ignore-signals crash left-behind
"""
FAST = set(FAST_NAMES.split())


class Scene:
    """What the programs attack: a victim's files, process, sockets; and what must be untouched afterwards."""

    def __init__(self) -> None:
        # programs of a root harness run as nobody: so that user is the victim, else nothing could be attacked
        self.user = NOBODY if os.geteuid() == 0 and _can_become_nobody() else os.geteuid()
        (HOME / "secret.txt").write_text("swordfish-in-a-file")
        for name in ("spare.txt", "victim-1", "victim-2"):
            (HOME / name).write_text("spare me")
        (HOME / "library").mkdir()
        self.victim = subprocess.Popen(["sleep", "1000"], **self.demoted())
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.named = socket.socket(socket.AF_UNIX)
        self.named.bind(str(HOME / "socket"))
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind("\0arena")
        for end in (self.named, self.abstract):
            end.listen(200)
        for path in [HOME, *HOME.rglob("*")]:
            if self.user != os.geteuid():
                os.chown(path, self.user, self.user)
        self.open = os.open(HOME, os.O_RDONLY)
        os.set_inheritable(self.open, True)
        from harness.sandbox.scoring import humaneval_file

        self.values = {
            "HOME": str(HOME),
            "SECRET": "swordfish-in-a-file",
            "PORT": str(self.tcp.getsockname()[1]),
            "PID": str(self.victim.pid),
            "PARENT": str(os.getpid()),
            "REPO": str(ROOT),
            "WRITABLE": str(HOME / "library"),
            "ANSWERS": str(humaneval_file()),
            "PYTHON": sys.executable,
        }

    def demoted(self) -> dict:
        return {} if self.user == os.geteuid() else {"user": self.user, "group": self.user, "extra_groups": []}

    def fill(self, source: str) -> str:
        for name, value in self.values.items():
            source = source.replace(f"@{name}@", value)
        return source

    def state(self) -> dict:
        """All that could carry a trace of an attack."""
        files = {}
        for path in written():
            with contextlib.suppress(OSError):
                about = path.lstat()
                text = path.read_text(errors="replace") if path.is_file() else ""
                files[str(path)] = [about.st_mode, about.st_uid, int(about.st_mtime), text]
        ipc = {name: Path("/proc/sysvipc", name).read_text().count("\n") for name in ("shm", "msg", "sem")}
        keys = [line.split()[8:] for line in Path("/proc/keys").read_text().splitlines() if "user" in line.split()[7:8]]
        return {"files": files, "processes": processes(), "ipc": ipc, "keys": keys, "victim": self.victim.poll()}


def _can_become_nobody() -> bool:
    from harness.sandbox.namespaces import nobody_is_mapped

    return nobody_is_mapped()


def written() -> list[Path]:
    """Everything that lies where programs could write: all but the checkout, which may lie in a temporary folder."""
    found, fixed = [], {ROOT, *ROOT.parents, Path(sys.prefix), Path(sys.base_prefix)}
    for folder in (HOME, Path("/tmp"), Path("/dev/shm")):
        for place, folders, names in os.walk(folder):
            here = Path(place)
            found += [here / name for name in (*folders, *names) if here / name not in fixed]
            folders[:] = [name for name in folders if here / name not in fixed]
    return found


def processes() -> dict[str, str]:
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found[entry.name] = (entry / "cmdline").read_text().replace("\0", " ")[:200]
    return found


def programs(selection: str) -> dict[str, tuple[str, Problem, str]]:
    """All hostile programs: name to (category, problem, source)."""
    found = {name: ("answers", ADD, source) for name, source in hostile_answers.ANSWERS.items()}
    found |= {name: ("judge", ADD, source) for name, source in hostile_answers.ANSWERS_TO_THE_JUDGE.items()}
    for category, sources in hostile_attacks.CATEGORIES.items():
        found |= {name: (category, ATTACK, source) for name, source in sources.items()}
    assert set(found) >= FAST, FAST - set(found)
    return found if selection == "all" else {name: found[name] for name in found if name in FAST}


def battery(tier: str, selection: str) -> dict:
    scene = Scene()
    chosen = programs(selection)
    before = scene.state()
    lag = Lag()
    with Sandbox(tier, workers=2) as box:
        order = [Program(problem, scene.fill(source)) for _, problem, source in chosen.values()]
        # something honest between the attacks: the harness keeps scoring, and each program starts clean
        mixed = [p for program in order for p in (program, CLEAN)]
        verdicts = dict(box.judge(mixed, TIMEOUT))
        kind = [Program(ADD, source) for source in benign.BENIGN.values()]
        honest = dict(box.judge(kind, 20.0))
        replaced = box.replaced
    after = settle(scene)
    names = list(chosen)
    return {
        "programs": len(names),
        "passed": [names[i] for i in range(len(names)) if verdicts[2 * i].passed],
        "unclean": [names[i] for i in range(len(names)) if not verdicts[2 * i + 1].passed],
        "results": {name: verdicts[2 * i].result for i, name in enumerate(names)},
        "benign_failed": {n: honest[i].result for i, n in enumerate(benign.BENIGN) if not honest[i].passed},
        "benign": len(honest),
        "traces": differences(before, after),
        "replaced": replaced,
        "longest_lag": lag.stop(),
    }


class Lag:
    """How long this process, outside the sandbox, ever had to wait for a turn: is the machine still responsive?"""

    def __init__(self) -> None:
        self._longest, self._on = 0.0, True
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while self._on:
            started = time.monotonic()
            time.sleep(0.05)
            self._longest = max(self._longest, time.monotonic() - started - 0.05)

    def stop(self) -> float:
        self._on = False
        return round(self._longest, 2)


def settle(scene: Scene) -> dict:
    """The state once processes that are about to end have ended; 5 seconds at most."""
    for _ in range(50):
        state = scene.state()
        if len(state["processes"]) <= 3:  # arena's init or this process, the victim, perhaps a shell
            break
        time.sleep(0.1)
    return state


def differences(before: dict, after: dict) -> dict:
    """What changed, by kind; for files and processes by name."""
    found = {}
    for kind, was in before.items():
        now = after[kind]
        if was != now and isinstance(was, dict):
            found[kind] = {n: [was.get(n), now.get(n)] for n in was | now if was.get(n) != now.get(n)}
        elif was != now:
            found[kind] = [was, now]
    return found


def unsafe() -> dict:
    """Each attack where there is no sandbox: program and test in one interpreter, exit code 0 passes."""
    scene = Scene()
    outcome = {}
    for name, (category, problem, source) in programs("all").items():
        if category == "judge":
            continue
        text = problem.prompt + scene.fill(source) + "\n" + problem.test + f"\ncheck({problem.entry_point})\n"
        outcome[name] = unsafely(scene, name, text, 4)
        if outcome[name] == "ran on" and name not in hostile_attacks.NEVER_TRUE:
            outcome[name] = unsafely(scene, name, text, 40)  # 2,500 threads take more than 4 s on a busy machine
    return {"outcome": outcome}


def unsafely(scene: Scene, name: str, text: str, limit: float) -> str:
    folder = Path("/tmp/unsafe")
    folder.mkdir()
    if scene.user != os.geteuid():
        os.chown(folder, scene.user, scene.user)
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER],
        stdin=subprocess.PIPE,
        stdout=(folder.parent / "output").open("w"),
        stderr=subprocess.PIPE,
        cwd=folder,
        text=True,
        start_new_session=True,
        close_fds=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30)),
        **scene.demoted(),
    )
    try:
        _, error = process.communicate(text, timeout=limit)
        outcome = "passed" if process.returncode == 0 else f"{process.returncode}: {error[-200:]}"
    except subprocess.TimeoutExpired:
        outcome = "ran on"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if name == "left-behind" and any(folder.iterdir()):
        outcome = "passed"  # its effect is what the next program would find
    subprocess.run(
        ["sh", "-c", "chmod -R u+rwx /tmp/unsafe; rm -rf /tmp/unsafe /tmp/output /dev/shm/owned"], check=False
    )
    return outcome


def reference(tier: str) -> dict:
    from harness.sandbox.scoring import humaneval_file, read_problems

    problems = list(read_problems(humaneval_file()).values())
    with Sandbox(tier, workers=2) as box:
        right = dict(box.judge([Program(p, p.canonical_solution) for p in problems], 20.0))
        empty = dict(box.judge([Program(p, "") for p in problems], 20.0))
    return {
        "canonical": sum(v.passed for v in right.values()),
        "failed": {problems[i].task_id: v.result for i, v in right.items() if not v.passed},
        "empty": sum(v.passed for v in empty.values()),
        "user": os.geteuid(),
    }


def agreement(tier: str, count: int) -> dict:
    from in_process import verdict
    from mutants import mutants

    from harness.sandbox.scoring import humaneval_file, read_problems

    problems = list(read_problems(humaneval_file()).values())
    made = mutants(problems, count, seed=0)
    with Sandbox(tier, workers=2) as box:
        ours = dict(box.judge([program for _, program in made], 3.0))
        differ, kinds = {}, {}
        for index, (kind, program) in enumerate(made):
            theirs = verdict(program, 3.0)
            if theirs != ours[index].passed:  # near the time limit on a busy machine: ask both again, with patience
                theirs = verdict(program, 20.0)
                ours[index] = next(box.judge([program], 20.0))[1]
            row = kinds.setdefault(kind, [0, 0])
            row[theirs] += 1
            if theirs != ours[index].passed:
                differ[index] = [program.problem.task_id, kind, theirs, ours[index].result, program.completion]
    return {"compared": len(made), "differ": differ, "wrong_and_right_by_kind": kinds}


def load(tier: str, count: int) -> dict:
    """Many programs, a fifth of them hostile; what is left of processes, descriptors, files and memory."""
    scene = Scene()
    hostile = [
        Program(problem, scene.fill(source))
        for name, (_, problem, source) in programs("all").items()
        if name not in hostile_attacks.NEVER_TRUE and name not in SLOW
    ]
    honest = [Program(ADD, "    return a + b\n"), Program(ADD, "    return a - b\n")]

    def stream():
        for number in range(count):
            yield hostile[number // 5 % len(hostile)] if number % 5 == 4 else honest[number % 2]

    before, started, wrong, marks = scene.state(), time.monotonic(), [], []
    with Sandbox(tier, workers=2) as box:
        for index, (number, verdict) in enumerate(box.judge(stream(), TIMEOUT)):
            if verdict.passed != (number % 5 != 4 and number % 2 == 0):
                wrong.append([number, verdict.result])
            if index % (count // 10) == count // 20:
                marks.append(footprint())
        seconds, replaced = time.monotonic() - started, box.replaced
    after = settle(scene)
    return {
        "wrong": wrong[:20],
        "number_wrong": len(wrong),
        "seconds": round(seconds),
        "replaced": replaced,
        "footprint": marks,
        "traces": differences(before, after),
    }


RUNNER = "import sys; exec(compile(sys.stdin.read(), 'candidate', 'exec'), {'__name__': 'builtins'})"
SLOW = {"half-frame", "drip", "never-reads", "collisions", "threads", "exit-thread", "memory-list", "fork-bomb"}


def footprint() -> dict:
    """Processes in the arena, descriptors of this one, MiB of this one and of all together."""
    pages = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            pages[entry.name] = int((entry / "statm").read_text().split()[1])
    own = pages[str(os.getpid())] * 4096 >> 20
    return {
        "processes": len(pages),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "mib": own,
        "mib_of_all": sum(pages.values()) * 4096 >> 20,
        "files": len(written()),
    }


if __name__ == "__main__":
    verbs = {"battery": battery, "unsafe": unsafe, "reference": reference, "agreement": agreement, "load": load}
    arguments = [int(a) if a.isdigit() else a for a in sys.argv[2:]]
    print(json.dumps(verbs[sys.argv[1]](*arguments)))
