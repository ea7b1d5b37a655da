"""Running untrusted Python programs: `with Sandbox() as box: box.judge(...)` (harness.sandbox.pool) and its parts.

Nothing is imported here: the interpreter inside the sandbox loads modules of this package one by one, and only few.
"""
