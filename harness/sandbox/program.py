"""A program's side of the conversation, in its own process inside the sandbox: load the text, then answer calls.

Nothing here is trusted by anyone: the program shares this interpreter and can do whatever it likes to it. What it can
do at most is to answer calls with values of its choice, which is what it is asked for.
"""

from __future__ import annotations

import gc
import socket
import sys
import types
from collections.abc import Callable
from typing import Any

from harness.sandbox import values
from harness.sandbox.wire import Closed, Malformed, Wire

ANSWERS = 3  # the descriptor of the answer socket; 0, 1 and 2 are /dev/null
MODULE = "solution"  # never "__main__": a main guard's code is no part of the answer
MESSAGE = 1000  # characters of an error that travel


def run() -> None:
    """Load one program and answer calls until the socket closes or the process is killed."""
    gc.freeze()  # what the server made since its own freeze: collecting it would copy its pages
    gc.enable()
    if "tempfile" in sys.modules:  # tier 2's server has used it
        vars(sys.modules["tempfile"])["tempdir"] = None
    converse(Wire(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, ANSWERS)))


def converse(wire: Wire) -> None:
    """Answer calls on an open wire until it closes."""
    try:
        order = wire.receive()
        try:
            function = load(order["text"], order["entry_point"])
        except BaseException as error:
            wire.send(failure(error))
            return
        wire.send({"ready": True})
        while True:
            for call in order["calls"]:
                answer_one(wire, function, call)
            order = wire.receive()
    except Closed:
        return


def load(text: str, entry_point: str) -> Callable[..., Any]:
    """The program's function of that name. Raises whatever its top-level code raises."""
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    exec(compile(text, f"<{MODULE}>", "exec"), module.__dict__)
    return module.__dict__[entry_point]


def answer_one(wire: Wire, function: Callable[..., Any], call: Any) -> None:
    arguments, named = values.unpack(call["args"]), values.unpack(call["kwargs"])
    try:
        reply = {"value": values.pack(function(*arguments, **named))}
    except BaseException as error:
        reply = failure(error)
    try:
        wire.send(reply)
    except Malformed as error:
        wire.send({"error": "MemoryError", "message": f"the answer is too large: {error}"})


def failure(error: BaseException) -> dict[str, Any]:
    try:
        message = str(error)
    except BaseException:
        message = ""
    return {"error": type(error).__name__[:100], "message": message[:MESSAGE].encode("utf-8", "replace").decode()}
