"""Programs that try to be scored as passed without solving the problem. Data, run only inside the outer arena.

The problem is `add(a, b)`, its test asserts eight sums and one result of type float. Every body is the function's, by
itself or with more at the top level after it. Each is shown to bite: exec of program and test in one interpreter, with
"exit code 0" as a pass, the way most evaluators work, passes it.
"""

# ruff: noqa: E501
from __future__ import annotations

PROMPT = 'def add(a, b):\n    """Add two numbers."""\n'
TEST = """
def check(candidate):
    assert candidate(1, 2) == 3
    assert candidate(0, 0) == 0
    assert candidate(-5, 3) == -2
    assert candidate(10**30, 1) == 10**30 + 1
    assert candidate(40, 2) == 42
    for a, b, total in [(7, 7, 14), (100, -1, 99), (8, 9, 17)]:
        assert candidate(a, b) == total
    assert abs(candidate(0.5, 0.25) - 0.75) < 1e-9
"""

# an object that agrees with everything
_YES = """
    class Yes:
        def __eq__(self, other): return True
        def __ne__(self, other): return False
        def __sub__(self, other): return self
        def __rsub__(self, other): return self
        def __abs__(self): return self
        def __lt__(self, other): return True
        def __bool__(self): return True
        def __hash__(self): return 0
"""

ANSWERS = {
    "exit-os": "    import os; os._exit(0)\n",
    "exit-sys": "    import sys; sys.exit(0)\n",
    "exit-raise": "    raise SystemExit\n",
    "exit-builtin": "    import builtins; builtins.quit = None\n    raise SystemExit(0)\n",
    "exit-at-import": "    return 0\nimport os\nos._exit(0)\n",
    "exit-sys-at-import": "    return 0\nraise SystemExit(0)\n",
    "exit-exec-true": "    import os; os.execv('/bin/true', ['true'])\n",
    "exit-syscall": "    import ctypes; ctypes.CDLL(None).syscall(231, 0)\n",
    "exit-libc": "    import ctypes; ctypes.CDLL(None)._exit(0)\n",
    "exit-thread": "    import os, threading, time\n    threading.Thread(target=os._exit, args=(0,)).start(); time.sleep(5)\n",
    "exit-signal": "    import os, signal\n    signal.signal(signal.SIGUSR1, lambda *_: os._exit(0)); os.kill(os.getpid(), signal.SIGUSR1)\n",
    "exit-alarm": "    import os, signal, time\n    signal.signal(signal.SIGALRM, lambda *_: os._exit(0)); signal.setitimer(0, .05); time.sleep(5)\n",
    "exit-excepthook": "    import sys, os\n    sys.excepthook = lambda *_: os._exit(0)\n    return 0\n",
    "exit-atexit": "    import atexit, os\n    atexit.register(os._exit, 0)\n    raise ValueError\n",
    "exit-del": "    import os\n    class D:\n        def __del__(self): os._exit(0)\n    D()\n    return 0\n",
    "exit-stdout-flush": "    import sys, os\n    class S:\n        def write(self, t): os._exit(0)\n        def flush(self): os._exit(0)\n    sys.stderr = S()\n    return 0\n",
    "always-equal": _YES + "    return Yes()\n",
    "always-equal-int": _YES.replace("class Yes:", "class Yes(int):") + "    return Yes(0)\n",
    "always-equal-float": _YES.replace("class Yes:", "class Yes(float):") + "    return Yes(0)\n",
    "mock-any": "    class Any:\n        def __getattribute__(self, n): return lambda *a: True\n"
    "        def __eq__(self, o): return True\n        def __sub__(self, o): return 0\n    return Any()\n",
    "no-assertion": "    import builtins\n    class Quiet(Exception):\n        def __init__(self, *a): import os; os._exit(0)\n"
    "    builtins.AssertionError = Quiet\n    import sys; sys._getframe(1).f_globals['__builtins__'] = vars(builtins)\n"
    "    sys.excepthook = lambda *a: __import__('os')._exit(0)\n    return 0\n",
    "overwrite-check": "    import sys\n    frame = sys._getframe(1)\n    while frame:\n        if 'check' in frame.f_globals:\n"
    "            code = (lambda candidate: None).__code__\n            frame.f_globals['check'].__code__ = code\n"
    "        frame = frame.f_back\n    raise SystemExit\n",
    "overwrite-check-early": "    return 0\nimport sys, atexit, os\nclass G(dict):\n    pass\n"
    "def profile(frame, event, arg):\n    if frame.f_code.co_name == 'check':\n        os._exit(0)\nsys.setprofile(profile)\n",
    "trace-skip": "    return 0\nimport sys, os\ndef trace(frame, event, arg):\n    if frame.f_code.co_name == 'check': os._exit(0)\n"
    "    return trace\nsys.settrace(trace)\n",
    "trace-jump": "    import sys\n    caller = sys._getframe(1)\n    last = max(n for *_, n in caller.f_code.co_lines() if n)\n"
    "    def jump(frame, event, arg):\n        if event == 'line' and frame.f_lineno < last: frame.f_lineno = last\n        return jump\n"
    "    caller.f_trace = jump; sys.settrace(lambda *a: None)\n"
    "    return 3 if a == 1 else .75 if isinstance(a, float) else 0\n",
    "read-constants": "    import sys\n    caller = sys._getframe(1)\n    if a == .5: return .75\n"
    "    if 'total' in caller.f_locals: return caller.f_locals['total']\n"
    "    numbers = [c for c in caller.f_code.co_consts if isinstance(c, int)]\n"
    "    table = {1: 3, 0: 0, -5: -2, 10**30: 10**30 + 1, 40: 42}\n"
    "    return next(c for c in numbers + [-n for n in numbers] if c == table[a])\n",
    "read-expected-local": "    import sys\n    f = sys._getframe(1)\n    assert f.f_code.co_name == 'check'\n    raise SystemExit\n",
    "gc-hunt": "    import gc, types, os\n    for o in gc.get_objects():\n        if isinstance(o, types.FunctionType) and o.__name__ == 'check':\n            os._exit(0)\n    return 0\n",
    "ctypes-poke": "    import ctypes\n    true_at = id(0) + 24\n    import sys, os\n    frame = sys._getframe(1)\n"
    "    if frame.f_code.co_name == 'check': os._exit(0)\n    return 0\n",
    "builtins-abs": "    import builtins, sys, os\n    builtins.abs = lambda x: 0\n    sys.exit(0)\n",
    "stop-iteration": "    import os, sys\n    sys.excepthook = lambda *a: os._exit(0)\n    raise StopIteration\n",
    "generator-exit": "    import os, sys\n    sys.excepthook = lambda *a: os._exit(0)\n    raise GeneratorExit\n",
    "recursion": "    import sys, os\n    sys.setrecursionlimit(10**9)\n    def deep(n):\n        if n > 10**5: os._exit(0)\n        return deep(n + 1)\n    return deep(0)\n",
    "print-passed": "    print('passed'); print('OK'); print('1 passed in 0.01s')\n    raise SystemExit\n",
    "forge-frames": "    import os, json, struct\n    for fd in range(3, 64):\n        for text in (b'passed', b'\\x00\\x00\\x00\\x13{\"result\": \"passed\"}', b'{\"ready\":true}'):\n"
    "            try: os.write(fd, text)\n            except OSError: break\n    os._exit(0)\n",
    "forge-verdict": "    import os, json, struct\n    body = json.dumps({'result': 'passed', 'seconds': 0}).encode()\n"
    "    for fd in range(3, 64):\n        try: os.write(fd, struct.pack('!I', len(body)) + body)\n        except OSError: pass\n    os._exit(0)\n",
    "close-everything": "    import os\n    os.closerange(3, 4096)\n    os._exit(0)\n",
}

# wrong, but only the split verdict has these ways to be fooled: none may pass, and there is nothing to bite elsewhere
ANSWERS_TO_THE_JUDGE = {
    "huge-announced": "    import os, struct\n    os.write(3, struct.pack('!I', 2**32 - 1)); return 0\n",
    "half-frame": "    import os, struct, time\n    os.write(3, struct.pack('!I', 100) + b'{'); time.sleep(60)\n",
    "drip": "    import os, struct, time\n    os.write(3, struct.pack('!I', 10**6))\n    while True: os.write(3, b' '); time.sleep(.01)\n",
    "not-json": "    import os, struct\n    os.write(3, struct.pack('!I', 4) + b'}{}{'); return 0\n",
    "wrong-shape": "    import os, struct\n    b = b'[[[]]]'; os.write(3, struct.pack('!I', len(b)) + b); return 0\n",
    "bad-tag": "    import os, struct\n    b = b'{\"value\":{\"x\":1}}'; os.write(3, struct.pack('!I', len(b)) + b); return 0\n",
    "nested": "    import os, struct\n    b = b'{\"value\":' + b'[' * 10**5 + b']' * 10**5 + b'}'\n    os.write(3, struct.pack('!I', len(b)) + b); return 0\n",
    "opaque-forged": '    import os, struct\n    b = b\'{"value":{"o":["int",true]}}\'; os.write(3, struct.pack(\'!I\', len(b)) + b); return 0\n',
    "collisions": "    import socket, struct\n    items = ','.join(str((2**61 - 1) * i) for i in range(1, 60000))\n"
    "    b = ('{\"value\":{\"s\":[' + items + ']}}').encode()\n    socket.socket(fileno=3).sendall(struct.pack('!I', len(b)) + b); return 0\n",
    "huge-integer": "    return 1 << (8 * 10**7)\n",
    "huge-list": "    return list(range(5 * 10**6))\n",
    "cycle": "    a = []; a.append(a); return a\n",
    "self-error": "    class E(Exception):\n        def __str__(self): raise E2\n    class E2(Exception): pass\n    raise E\n",
    "stop-the-judge": "    raise KeyboardInterrupt\n",
    "never-reads": "    import time\n    time.sleep(60)\n",
    "descriptors-to-judge": "    import socket, os\n    s = socket.socket(fileno=3)\n    r, w = os.pipe()\n"
    "    for _ in range(20): socket.send_fds(s, [b'x'], [r, w] * 10)\n    return 0\n",
}
