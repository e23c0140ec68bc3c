"""A hub on this machine: the addresses that the clients of Hugging Face and ModelScope ask, with faults on demand."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PIECE = 16_384


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """One repository: revision -> file name -> content. What is `large` is stored as the hub stores large files."""

    revisions: dict[str, dict[str, bytes]]
    large: tuple[str, ...] = (".bin", ".safetensors", ".model")

    def commit(self, revision: str) -> str:
        content = self.revisions[revision]
        return hashlib.sha1(json.dumps([[name, sha256(data)] for name, data in content.items()]).encode()).hexdigest()

    def files(self, revision: str) -> dict[str, bytes] | None:
        """The files of a branch or commit, None where there is no such thing."""
        by_commit = {self.commit(name): content for name, content in self.revisions.items()}
        return self.revisions.get(revision, by_commit.get(revision))


@dataclass
class FakeHub:
    """What the server holds, the faults that it plays, and what it was asked.

    `cut`: file name -> after how many bytes the connection is closed, once each. `refused`: file name -> status.
    `corrupt`: names whose content is sent with one bit changed. `longer`: name -> what is sent behind its content.
    `odd`: repository -> what is answered in place of its description. `stated`: name -> another digest than its own.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    odd: dict[str, bytes] = field(default_factory=dict)
    cut: dict[str, list[int]] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    corrupt: set[str] = field(default_factory=set)
    longer: dict[str, bytes] = field(default_factory=dict)
    stated: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    sent: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    address: str = ""
    elsewhere: str = ""

    def digest(self, name: str, content: bytes) -> str:
        return self.stated.get(name) or sha256(content)


class Handler(BaseHTTPRequestHandler):
    """Answers for the hub that the server carries."""

    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> FakeHub:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.hub.asked.append((self.command, path, self.headers.get("Range")))
        if self.headers.get("Authorization"):
            self.hub.tokens.append(path)
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "v1"]:
            self.modelscope(parts[2:], parse_qs(url.query))
        elif parts[:2] == ["api", "models"]:
            self.describe(f"{parts[2]}/{parts[3]}", parts[4:])
        elif parts[0] == "cdn":
            self.content(parts[2], self.hub.repositories[unquote(parts[1]).replace("--", "/")])
        elif len(parts) > 4 and parts[2] == "resolve":
            self.resolve(f"{parts[0]}/{parts[1]}", parts[3], "/".join(parts[4:]))
        else:
            self.fail(404, "EntryNotFound")

    def describe(self, repo: str, rest: list[str]) -> None:
        found = self.hub.repositories.get(repo)
        if repo in self.hub.gated:
            self.fail(403, "GatedRepo")
            return
        if found is None:
            self.fail(404, "RepoNotFound")
            return
        if repo in self.hub.odd:
            self.answer(self.hub.odd[repo])
            return
        revision = rest[1] if len(rest) > 1 else "main"
        files = found.files(revision)
        if files is None:
            self.fail(404, "RevisionNotFound")
            return
        commit = found.commit(revision) if revision in found.revisions else revision
        entries = []
        for name, content in files.items():
            digest, size = self.hub.digest(name, content), len(content)
            is_large = name.endswith(found.large)
            if rest[:1] == ["tree"]:
                entry: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": git(content)}
                lfs: dict[str, Any] = {"oid": digest, "size": size, "pointerSize": 130}
            else:
                entry = {"rfilename": name, "size": size, "blobId": git(content)}
                lfs = {"sha256": digest, "size": size, "pointerSize": 130}
            entries.append({**entry, "lfs": lfs} if is_large else entry)
        self.answer(entries if rest[:1] == ["tree"] else {"id": repo, "sha": commit, "siblings": entries})

    def resolve(self, repo: str, revision: str, name: str) -> None:
        found = self.hub.repositories[repo]
        files = found.files(revision) or {}
        if name in self.hub.refused:
            self.fail(self.hub.refused[name], "")
            return
        if name not in files:
            self.fail(404, "EntryNotFound")
            return
        is_large = name.endswith(found.large)
        commit = found.commit(revision) if revision in found.revisions else revision
        digest = self.hub.digest(name, files[name]) if is_large else git(files[name])
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest}"'}
        if is_large:  # as the hub does: elsewhere, from where nobody needs a token
            headers |= {
                "X-Linked-ETag": f'"{digest}"',
                "X-Linked-Size": str(len(files[name])),
                "Location": f"{self.hub.elsewhere}/cdn/{repo.replace('/', '--')}/{name}",
            }
            self.answer(b"", headers, status=302)
        else:
            self.send_content(name, files[name], headers)

    def content(self, name: str, repository: Repository) -> None:
        files = next(content for content in repository.revisions.values() if name in content)
        self.send_content(name, files[name], {})

    def modelscope(self, parts: list[str], query: dict[str, list[str]]) -> None:
        repo = "/".join(parts[1:3])
        found = self.hub.repositories.get(repo)
        revision = query.get("Revision", ["master"])[0]
        files = None if found is None else found.files(revision)
        if files is None:
            self.answer({"Code": 10010205001, "Message": "record not found", "Success": False}, status=404)
            return
        if parts[3:] == ["repo", "files"]:
            entries = [
                {"Path": name, "Name": name, "Type": "blob", "Size": len(data), "Sha256": self.hub.digest(name, data)}
                for name, data in files.items()
            ]
            self.answer({"Code": 200, "Data": {"Files": entries}, "Success": True})
            return
        name = query.get("FilePath", [""])[0] or "/".join(parts[5:])
        if name in files:
            self.send_content(name, files[name], {})
            return
        self.answer({"Code": 200, "Data": {}, "Success": True})
        return

    def send_content(self, name: str, content: bytes, headers: dict[str, str]) -> None:
        if name in self.hub.refused:
            self.fail(self.hub.refused[name], "")
            return
        if name in self.hub.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        content += self.hub.longer.get(name, b"")
        start, status = 0, 200
        wanted = self.headers.get("Range")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, status = int(first), 206
            headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            content = content[start : int(last) + 1 if last else None]
        cuts = self.hub.cut.get(name)
        limit = cuts.pop(0) if cuts and self.command == "GET" else None
        self.answer(content, {**headers, "Accept-Ranges": "bytes"}, status=status, limit=limit)
        if self.command == "GET":
            count = len(content) if limit is None else min(limit, len(content))
            self.hub.sent.setdefault(name, []).append((start, count))

    def answer(
        self, body: Any, headers: dict[str, str] | None = None, *, status: int = 200, limit: int | None = None
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(data[:limit])
        if limit is not None and limit < len(data):
            self.wfile.flush()
            self.close_connection = True

    def fail(self, status: int, code: str) -> None:
        self.answer(b"{}", {"X-Error-Code": code, "X-Error-Message": code} if code else {}, status=status)


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """A hub that listens on a free port of this machine until the end."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    port = server.server_address[1]
    server.hub = FakeHub(address=f"http://127.0.0.1:{port}", elsewhere=f"http://localhost:{port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.hub  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
