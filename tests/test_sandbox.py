"""The sandbox around harmless programs: exact values, verdicts out of the program's reach, refusal, survival."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, OrderedDict, namedtuple
from enum import IntEnum
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.sandbox import linux, pool, probe, seccomp, syscalls, values
from harness.sandbox.pool import Problem, Program, Sandbox
from harness.sandbox.wire import Closed, Malformed, TooLate, Wire

ROOT = Path(__file__).parents[1]

# -- values ----------------------------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers().map(lambda n: n * 10**40)
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters())  # lone surrogates too
    | st.binary()
    | st.fractions()
    | st.just(...)
    | st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.sampled_from([-2, 1, 3]))
)
hashables = st.recursive(
    scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=6
)
plain = st.recursive(
    hashables | st.sets(hashables, max_size=3) | st.dictionaries(hashables, scalars, max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=20,
)


def over_the_wire(value):
    left, right = socket.socketpair()
    with left, right:
        Wire(left).send(values.pack(value))
        return values.unpack(Wire(right).receive())


@settings(max_examples=60, deadline=None)
@given(plain)
def test_plain_values_arrive_exactly_with_their_types(value):
    received = over_the_wire(value)
    assert received == value
    assert types(received) == types(value)


def types(value):
    """The types of a value and of all it holds; of a set's members without their order."""
    inner = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    if isinstance(value, set | frozenset):
        return type(value), frozenset(map(types, inner))
    if isinstance(value, list | tuple | dict):
        return type(value), tuple(map(types, inner))
    return type(value)


@given(st.floats())
def test_floats_arrive_bit_for_bit(number):
    assert over_the_wire(number).hex() == number.hex()


def test_an_integer_beyond_json_s_4300_digits_arrives():
    assert over_the_wire([10**6000, -(10**6000)]) == [10**6000, -(10**6000)]


class Colour(IntEnum):
    RED = 3


class Liar(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__

    def __add__(self, other):
        return 41

    def __format__(self, spec):
        return "29"


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (Counter("abb"), {"a": 1, "b": 2}),
        (OrderedDict(a=1), {"a": 1}),
        (namedtuple("P", "x y")(1, 2), (1, 2)),
        (Colour.RED, 3),
        (Liar(7), 7),
        (Liar(10**30), 10**30),
        (type("S", (str,), {"__eq__": lambda *_: True})("x"), "x"),
        (type("L", (list,), {"__iter__": lambda s: iter([9])})([1]), [1]),
        (type("F", (float,), {"__float__": lambda s: 9.0})(1.5), 1.5),
        ({"a": 1}.keys(), {"a"}),
    ],
)
def test_subclasses_are_reduced_to_their_base_value(value, base):
    received = over_the_wire(value)
    assert type(received) is type(base)
    assert received == base


def test_any_other_object_equals_nothing_and_keeps_only_its_truth():
    received = over_the_wire([object(), iter([]), lambda: 1, type("N", (), {"__bool__": lambda s: False})()])
    for thing in received:
        assert not thing == thing  # noqa: SIM201
        assert thing != thing
        assert thing != 0
    assert [bool(thing) for thing in received] == [True, True, True, False]
    with pytest.raises(TypeError):
        abs(received[0] - 1)


def test_arguments_that_are_not_plain_are_an_error_of_the_problem():
    with pytest.raises(values.Unsendable):
        values.pack([1, print], strict=True)


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3), lambda x: st.lists(x) | st.dictionaries(st.text(max_size=2), x)
    )
)
def test_forged_documents_unpack_to_plain_values_or_are_refused(document):
    with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
        values.unpack(document)


# -- wire ------------------------------------------------------------------------------------------------------------


def test_half_a_frame_a_large_one_and_no_json_are_refused_in_time():
    for sent, error in [(b"\0\0\0\x09{", TooLate), (b"\xff\xff\xff\xff", Malformed), (b"\0\0\0\x02}{", Malformed)]:
        left, right = socket.socketpair()
        with left, right:
            left.sendall(sent)
            wire = Wire(right)
            wire.deadline = time.monotonic() + 0.2
            with pytest.raises(error):
                wire.receive()


def test_a_reader_that_never_reads_can_not_hold_the_writer():
    left, right = socket.socketpair()
    with left, right:
        wire = Wire(left)
        wire.deadline = started = time.monotonic()
        wire.deadline += 0.3
        with pytest.raises(TooLate):
            wire.send("x" * (8 << 20))
        assert time.monotonic() - started < 3


def test_a_closed_end_is_told_apart_from_a_late_one():
    left, right = socket.socketpair()
    left.close()
    with right, pytest.raises(Closed):
        Wire(right).receive()


# -- seccomp ---------------------------------------------------------------------------------------------------------


def decide(code, architecture, number, arguments=(0,) * 6):
    """What a filter answers: an interpreter of classic BPF, written from its manual, apart from the assembler."""
    data = number.to_bytes(4, "little") + architecture.to_bytes(4, "little") + bytes(8)
    data += b"".join((argument & (2**64 - 1)).to_bytes(8, "little") for argument in arguments)
    accumulator = at = 0
    while True:
        operation, yes, no, constant = code[at]
        at += 1
        if operation == 0x06:
            return constant
        if operation == 0x20:
            accumulator = int.from_bytes(data[constant : constant + 4], "little")
        elif operation == 0x05:
            at += constant
        else:
            tests = {0x15: accumulator == constant, 0x35: accumulator >= constant, 0x45: bool(accumulator & constant)}
            at += yes if tests[operation] else no


@pytest.mark.parametrize("count", [False, True])
@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_the_filter_allows_exactly_the_table(name, count):
    code, column, own = seccomp.assemble(name, count), linux.MACHINES[name], seccomp.AUDIT_ARCH[name]
    assert len(code) < 4096
    assert all(yes < 256 and no < 256 for _, yes, no, _ in code)
    plain_calls = syscalls.ALLOWED if count else syscalls.ALLOWED | syscalls.CREATING | syscalls.OPENING
    allowed = {numbers[column] for numbers in plain_calls.values()}
    conditional = {numbers[column] for numbers in syscalls.CONDITIONAL.values()}
    counted = {numbers[column] for numbers in (syscalls.CREATING | syscalls.OPENING).values()} if count else set()
    absent = {numbers[column] for numbers in syscalls.ABSENT.values()}
    for number in range(600):
        answer = decide(code, own, number, (0,) * 6)
        if number in absent:
            assert answer == seccomp.ENOSYS
        elif number in conditional:
            continue
        elif number in counted:
            assert answer in (seccomp.NOTIFY, seccomp.ALLOW)
        else:
            assert answer == (seccomp.ALLOW if number in allowed else seccomp.EPERM), number
    assert decide(code, own ^ 1, 0) == seccomp.KILL
    assert decide(code, own, 0x40000000) == seccomp.KILL  # x32


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_conditional_calls_look_at_their_arguments(name):
    code, column, own = seccomp.assemble(name, True), linux.MACHINES[name], seccomp.AUDIT_ARCH[name]

    def answer(call, *arguments):
        table = syscalls.CONDITIONAL | syscalls.CREATING | syscalls.OPENING
        return decide(code, own, table[call][column], (*arguments, 0, 0, 0, 0, 0, 0)[:6])

    thread = 0x003D0F00  # what pthread_create asks for
    assert answer("clone", thread) == seccomp.ALLOW
    for flags in (17, 0, thread | 0x10000000, thread | 0x80, thread & ~0x10000):
        assert answer("clone", flags) == seccomp.EPERM
    assert answer("kill", seccomp.OWN_PID, 9) == seccomp.ALLOW
    assert {answer("kill", pid, 9) for pid in (0, 1, 77, 0xFFFFFFFE)} == {seccomp.EPERM}
    assert answer("socketpair", 1) == seccomp.ALLOW
    assert answer("socketpair", 2) == seccomp.EPERM
    assert answer("fcntl", 3, 4) == seccomp.ALLOW
    assert {answer("fcntl", 3, command) for command in (5, 6, 7, 8, 10, 15, 1024, 1031)} == {seccomp.EPERM}
    assert {answer("ioctl", 3, command) for command in (0x8901, 0x8902, 0x5412, 0xC0502100)} == {seccomp.EPERM}
    assert answer("prlimit64", 0, 7, 0, 1) == seccomp.ALLOW
    assert {answer("prlimit64", *a) for a in [(5, 7, 0, 1), (0, 7, 1, 0), (0, 7, 1 << 40, 0)]} == {seccomp.EPERM}
    assert answer("openat", 0, 0, 0o2000000) == seccomp.ALLOW
    assert {answer("openat", 0, 0, flags) for flags in (0o101, 0o20000000)} == {seccomp.NOTIFY}


@pytest.mark.parametrize(
    ("column", "header"),
    [(0, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), (1, "/usr/include/asm-generic/unistd.h")],
    ids=["x86_64", "aarch64"],
)
def test_system_call_numbers_are_the_kernel_headers(column, header):
    if not Path(header).exists():
        pytest.skip(f"{header} is not installed")
    numbers = {name: int(n) for name, n in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text())}
    numbers.setdefault("newfstatat", numbers.get("fstatat"))
    tables = (syscalls.ALLOWED, syscalls.CREATING, syscalls.OPENING, syscalls.CONDITIONAL, syscalls.ABSENT)
    for table in (*tables, linux.DIRECT_CALLS):
        for name, row in table.items():
            assert row[column] == numbers.get(name), name


# -- verdicts --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tier():
    for name in ("namespaces", "landlock"):
        if probe.failure(name) is None:
            return name
    pytest.skip("no tier of the sandbox holds on this machine")


@pytest.fixture(scope="module")
def box(tier):
    with Sandbox(tier) as made:
        yield made


def judged(box, test, completion, prompt='def f(x):\n    """Doc."""\n', timeout=20.0):
    problem = Problem(
        "t", prompt, "f", "def check(candidate):\n" + "".join(f"    {line}\n" for line in test.split("\n"))
    )
    return next(box.judge([Program(problem, completion)], timeout))[1].result


def test_right_wrong_broken_and_slow(box):
    problem = Problem("t", "def f(x):\n    '''Doc.'''\n", "f", "def check(candidate):\n    assert candidate(1) == 2\n")
    bodies = ["    return x + 1\n", "    return x\n", "    return ((\n", "    return y\n", "", "    return '2'\n"]
    verdicts = dict(box.judge([Program(problem, body) for body in bodies], 20.0))
    assert [verdicts[i].passed for i in range(6)] == [True, False, False, False, False, False]
    assert verdicts[3].result == "failed: name 'y' is not defined"
    assert judged(box, "candidate(1)", "    while True: pass\n", timeout=0.3) == "timed out"


@pytest.mark.parametrize(
    ("test", "completion"),
    [
        ("assert f(1) == 2 == candidate(1)", "    return x + 1\n"),  # HumanEval/33: by name
        ("assert helper(candidate(1)) == 3", "    return x\n"),  # HumanEval/32, 38, 50: a helper of the prompt
        (
            "try:\n    candidate(1)\n    assert False\nexcept ValueError as e:\n    assert e",
            "    raise ValueError('no')\n",
        ),
        (
            "import random\nrandom.seed(3)\nn = random.choices(range(99), k=50)\nassert candidate(n) == n",
            "    return x\n",
        ),
        ("assert candidate(candidate(1)) == 3", "    return x + 1\n"),
        ("assert candidate(x=[(1, 2), {'a': {3}}]) == [(1, 2), {'a': {3}}]", "    return x\n"),
        ("assert candidate(1) == 1 and candidate(1) == 2", "    global n\n    n += 1\n    return n\nn = 0\n"),
        ("assert candidate(0) == 2", "    return __name__.count('o')\nif __name__ == '__main__': f = None\n"),
        ("assert candidate('abc')", "    import re\n    return re.match('a', x)\n"),
    ],
)
def test_odd_checks_and_honest_programs(box, test, completion):
    prompt = "def helper(x):\n    return x + 2\n\ndef f(x):\n    '''Doc.'''\n"
    for _ in range(2):  # the second time the calls are sent ahead
        assert judged(box, test, completion, prompt) == "passed"


def test_an_exception_can_not_end_a_loop_of_the_check(box):
    for body in ("    raise StopIteration\n", "    raise GeneratorExit\n", "    import sys; sys.exit()\n"):
        assert judged(box, "assert all(map(lambda x: candidate(x) == x, [1, 2]))", body).startswith("failed")


def test_a_check_that_swallows_everything_can_not_hide_a_dead_program(box):
    test = "try:\n    candidate(1)\nexcept Exception:\n    pass"
    assert judged(box, test, "    import os; os._exit(0)\n").startswith("failed")
    assert judged(box, "try:\n    candidate(1)\nexcept:\n    pass", "    import os; os._exit(0)\n").startswith("failed")


def test_calls_that_change_from_run_to_run_are_not_sent_ahead(box):
    test = "import time\nn = time.monotonic_ns()\nassert candidate(n) == n + 1\nassert candidate(1) == 2"
    for _ in range(3):
        assert judged(box, test, "    return x + 1\n") == "passed"
        assert judged(box, test, "    return x + 2\n") == "failed: AssertionError"


def test_verdicts_repeat_whatever_a_program_draws_at_random(box):
    test = "assert candidate(1) > 0"
    body = "    import random\n    return random.random() - 0.5 if next(iter({'a', 'b', 'c'})) == 'a' else -1\n"
    assert len({judged(box, test, body) for _ in range(5)}) == 1


def test_a_check_that_hangs_is_ended_and_its_judge_replaced(tier):
    with Sandbox(tier) as box:
        test = "while True:\n    pass"
        assert judged(box, test, "    return 1\n", timeout=0.3) == "timed out"
        assert box.replaced == 2, "tried twice: once may be the fault of the program before"
        assert judged(box, "assert candidate(1) == 1", "    return 1\n") == "passed"


def test_programs_are_read_as_they_are_needed_and_may_be_left(tier):
    problem = Problem("t", "def f(x):\n    '''Doc.'''\n", "f", "def check(candidate):\n    assert candidate(1) == 1\n")
    read = []

    def endless():
        while True:
            read.append(1)
            yield Program(problem, "    return x\n")

    with Sandbox(tier, workers=2) as box:
        stream = box.judge(endless(), 20.0)
        assert all(next(stream)[1].passed for _ in range(5))
        stream.close()
        assert len(read) < 12
        assert judged(box, "assert candidate(1) == 1", "    return x\n") == "passed"


def test_a_program_holds_four_descriptors_whatever_the_harness_has_open(tier):
    body = (
        "    import os\n    held = []\n    for n in range(4096):\n        try:\n            os.fstat(n)\n"
        "        except OSError:\n            continue\n        held.append(n)\n    return held\n"
    )
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(open(os.devnull)).fileno()  # noqa: PTH123
        with Sandbox(tier) as box:
            assert judged(box, "assert candidate(1) == [0, 1, 2, 3]", body) == "passed"


# -- ends ------------------------------------------------------------------------------------------------------------


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child} | descendants(child)
    return found


@pytest.mark.parametrize("name", ["namespaces", "landlock"])
def test_a_killed_harness_leaves_no_process_and_no_file(name):
    if probe.failure(name):
        pytest.skip(f"tier {name} does not hold on this machine")
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)  # programs of root run as nobody, who must be able to reach it
    program = f"""
import sys
sys.path.insert(0, sys.argv[1])
from harness.sandbox.pool import Problem, Program, Sandbox
problem = Problem("t", "def f():\\n", "f", "def check(c):\\n    c()\\n")
with Sandbox({name!r}, workers=2) as box:
    list(box.judge([Program(problem, "    open('x', 'w')\\n    while True: pass\\n")] * 2, 60.0))
"""
    harness = subprocess.Popen([sys.executable, "-c", program, str(ROOT)], env={**os.environ, "TMPDIR": str(place)})
    for _ in range(300):
        family = descendants(harness.pid)
        if len(family) >= 8:  # two each of: judge, waiting process, server, program
            break
        time.sleep(0.1)
    assert len(family) >= 8
    time.sleep(0.3)
    harness.send_signal(signal.SIGKILL)
    harness.wait()
    for _ in range(100):
        left = {
            pid
            for pid in family
            if Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()
        }
        if not left and not list(place.iterdir()):
            break
        time.sleep(0.1)
    assert left == set()
    assert list(place.iterdir()) == []
    place.rmdir()


# -- refusal ---------------------------------------------------------------------------------------------------------


def test_no_sandbox_is_a_refusal_with_cause_and_remedy_unless_unsafe_is_asked_for(monkeypatch):
    monkeypatch.setattr(probe, "failure", lambda tier: f"no {tier} today")
    with pytest.raises(
        probe.NoSandbox, match=r"no namespaces today.*no landlock today.*Remedy: .*--allow-unsafe"
    ) as caught:
        Sandbox("auto")
    assert caught.value.exit_code == 2
    with pytest.raises(probe.NoSandbox):
        probe.demand("landlock")
    box = Sandbox("auto", unsafe=True)
    assert box.provenance()["sandbox"] == "unsandboxed"


def test_the_second_tier_is_taken_where_the_first_does_not_hold(monkeypatch):
    monkeypatch.setattr(probe, "failure", lambda tier: "forbidden" if tier == "namespaces" else None)
    assert probe.choose() == "landlock"


def test_other_systems_are_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(probe.NoSandbox, match="darwin has neither"):
        probe.choose()


def test_the_probe_sees_through_a_tier_that_isolates_nothing():
    cause = probe.failure("none")
    assert cause is not None
    for attack in ("reads a file outside", "starts a process", "opens a socket", "signals another process"):
        assert attack in cause


def test_a_tier_that_can_not_be_set_up_says_which_call_was_refused(monkeypatch):
    refused = (
        "from harness.sandbox import linux\n"
        "def refuse(flags): raise OSError(1, 'unshare: Operation not permitted')\n"
        "linux.unshare = refuse\nserver.main()"
    )
    monkeypatch.setattr(pool, "START_SERVER", pool.START_SERVER.replace("server.main()", refused))
    with Sandbox("namespaces") as box, pytest.raises(pool.SandboxFailed, match="unshare: Operation not permitted"):
        judged(box, "assert True", "    pass\n")


def test_provenance_names_tier_kernel_and_landlock(box):
    told = box.provenance()
    assert told["sandbox"] == box.tier
    assert told["kernel"] == os.uname().release
    assert isinstance(told["landlock_abi"], int)


def test_the_sandbox_imports_no_torch():
    names = "harness.sandbox.scoring, harness.sandbox.server, harness.sandbox.judge"
    code = f"import sys; import {names}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
