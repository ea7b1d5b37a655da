"""Odd but honest solutions of `add`: each must pass in every tier. Data, run only inside the outer arena."""

# ruff: noqa: E501
from __future__ import annotations

BENIGN = {
    "plain": "    return a + b\n",
    "files": "    import os\n    with open('x.txt', 'w') as f: f.write(repr(a + b))\n    r = eval(open('x.txt').read()); os.remove('x.txt')\n    return r\n",
    "tempfile": "    import tempfile, json\n    with tempfile.TemporaryDirectory() as d:\n        with tempfile.NamedTemporaryFile('w+', dir=d) as f:\n"
    "            json.dump(a + b, f); f.seek(0); return json.load(f)\n",
    "threads": "    from concurrent.futures import ThreadPoolExecutor\n    with ThreadPoolExecutor(4) as p: return p.submit(lambda: a + b).result()\n",
    "asyncio": "    import asyncio\n    async def f():\n        await asyncio.sleep(0)\n        return a + b\n    return asyncio.run(f())\n",
    "signals": "    import os, signal\n    seen = []\n    signal.signal(signal.SIGUSR1, lambda *_: seen.append(a + b))\n    os.kill(os.getpid(), signal.SIGUSR1)\n    return seen[0]\n",
    "prints": "    import sys\n    print('x' * 10**6); print('y', file=sys.stderr); sys.stdout.flush()\n    return a + b\n",
    "deep-recursion": "    import sys\n    sys.setrecursionlimit(20000)\n    def down(n): return a + b if n == 0 else down(n - 1)\n    return down(15000)\n",
    "subclass": "    class I(type(a + b)): pass\n    return I(a + b)\n",
    "decimal-and-fraction": "    from fractions import Fraction\n    from decimal import Decimal\n    return Fraction(a) + Fraction(b) if isinstance(a, float) else Decimal(a) * 1 + b if abs(a) < 10**9 else a + b\n",
    "globals": "    global memory\n    memory = memory + 1\n    return a + b\nmemory = 0\n",
    "main-guard": "    return a + b\nif __name__ == '__main__':\n    raise SystemExit(add(1, 1))\n",
    "type-hints": "    return _add(a, b)\nfrom typing import *\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    x: 'Optional[int]' = None\ndef _add(a: 'int', b): return a + b\n",
    "exceptions": "    try: raise KeyError(a)\n    except KeyError as e:\n        try: return e.args[0] + b\n        finally: pass\n",
    "garbage": "    class N: pass\n    for _ in range(5000):\n        n = N(); n.me = n; n.x = bytearray(10000)\n    return a + b\n",
    "memory-within-limit": "    x = bytearray(100 << 20)\n    return a + b + x[5]\n",
    "many-imports": "    import json, re, hashlib, datetime, random, statistics, itertools, csv, sqlite3, zlib, urllib.parse, unittest, logging, uuid\n    return a + b\n",
    "random": "    import random\n    random.random(); random.seed(1)\n    return a + b\n",
    "ctypes": "    import ctypes\n    return a + b if ctypes.CDLL(None).abs(-1) == 1 else None\n",
    "limits-read": "    import resource, os\n    resource.getrlimit(resource.RLIMIT_AS); os.cpu_count(); os.getcwd(); os.urandom(4)\n    return a + b\n",
    "environment": "    import os\n    os.environ['X'] = '1'\n    return a + b if os.environ.get('HOME', '') == '' else a + b\n",
    "slow-but-fine": "    import time\n    time.sleep(0.02)\n    return a + b\n",
}
