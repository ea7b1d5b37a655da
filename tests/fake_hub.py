"""A Hugging Face hub on this machine: commits of one data set, for the hub's own libraries to ask."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeHub:
    """`commits` are the data set's states, oldest first: {file: content}. `asked` are the requests so far."""

    def __init__(self, name: str, *commits: dict[str, bytes]) -> None:
        self.name, self.commits, self.asked = name, list(commits), []
        self.url = ""

    @property
    def shas(self) -> list[str]:
        return [hashlib.sha1(str(i).encode()).hexdigest() for i in range(len(self.commits))]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """(commit, files) of `main` or of a commit."""
        sha = self.shas[-1] if revision == "main" else revision
        return (sha, self.commits[self.shas.index(sha)]) if sha in self.shas else None

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeHub]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.answer(body)

    def answer(self, body: str = "") -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        name = re.escape(self.hub.name)
        if found := re.fullmatch(rf"/api/datasets/{name}(?:/revision/([^/]+))?", path):
            self.reply(self.about(found[1] or "main"))
        elif found := re.fullmatch(rf"/api/datasets/{name}/(tree|paths-info)/([^/]+)/?(.*)", path):
            self.reply(self.entries(found[2], body if found[1] == "paths-info" else None))
        elif found := re.fullmatch(rf"/datasets/{name}/resolve/([^/]+)/(.+)", path):
            self.file(found[1], found[2])
        else:
            self.reply(None)

    def about(self, revision: str) -> Any:
        if (state := self.hub.at(revision)) is None:
            return None
        files = [{"rfilename": file} for file in state[1]]
        return {"id": self.hub.name, "sha": state[0], "siblings": files, "tags": [], "private": False, "gated": False}

    def entries(self, revision: str, wanted: str | None) -> Any:
        if (state := self.hub.at(revision)) is None:
            return None
        return [
            {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for file, content in state[1].items()
            if wanted is None or file in wanted
        ]

    def file(self, revision: str, name: str) -> None:
        state = self.hub.at(revision)
        if state is None or name not in state[1]:
            self.reply(None, {"X-Error-Code": "EntryNotFound" if state else "RevisionNotFound"})
            return
        content = state[1][name]
        self.reply(content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": state[0]})

    def reply(self, answer: Any, headers: dict[str, str] | None = None) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer or {"error": "not found"}).encode()
        self.send_response(404 if answer is None else 200)
        for key, value in (headers or ({"X-Error-Code": "RevisionNotFound"} if answer is None else {})).items():
            self.send_header(key, value)
        self.send_header(
            "Content-Type", "application/octet-stream" if isinstance(answer, bytes) else "application/json"
        )
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
