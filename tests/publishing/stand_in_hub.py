"""A Hub for tests: what clients ask of models, data sets, LFS and collections, in memory, on 127.0.0.1."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_of_someone"
NOW = "2026-01-01T00:00:00.000Z"
LARGE = (".safetensors", ".gif", ".png")


@dataclass
class Repository:
    """Commits by their ids; the last is main."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requests: int = 0

    @property
    def main(self) -> str:
        return list(self.commits)[-1]

    def commit(self, files: dict[str, bytes]) -> str:
        listing = json.dumps(
            [len(self.commits), sorted((n, hashlib.sha256(b).hexdigest()) for n, b in files.items())]
        )
        oid = hashlib.sha1(listing.encode()).hexdigest()
        self.commits[oid] = files
        return oid


@dataclass
class Store:
    repositories: dict[str, Repository] = field(default_factory=dict)
    """Models by `owner/name`, data sets by `datasets/owner/name`."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    collections: dict[str, list[str]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    """Names of files that are served with another last bit than was uploaded."""
    down: bool = False
    """Whether connections are closed without an answer."""


class Handler(BaseHTTPRequestHandler):
    store: Store
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        parts = self.parts()
        if self.store.down:
            self.close_connection = True
        elif parts == ["api", "whoami-v2"]:
            self.guarded(lambda: self.answer({"type": "user", "name": "someone", "orgs": [{"name": "ours"}]}))
        elif parts[:2] == ["api", "models"]:
            self.of_repository("/".join(parts[2:4]), parts[4:])
        elif parts[:2] == ["api", "datasets"]:
            self.of_repository("/".join(parts[1:4]), parts[4:])
        elif "resolve" in parts[2:4]:
            at = parts.index("resolve")
            self.file("/".join(parts[:at]), parts[at + 1], "/".join(parts[at + 2 :]))
        elif parts[:2] == ["api", "collections"]:
            self.collection("/".join(parts[2:]))
        else:
            self.refuse(404, "EntryNotFound")

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        self.guarded(self.write)

    def do_PUT(self):
        oid = self.parts()[1]
        body = self.body()
        assert hashlib.sha256(body).hexdigest() == oid
        self.store.blobs[oid] = body
        self.answer({})

    def write(self):
        match self.parts():
            case ["api", "repos", "create"]:
                self.create(json.loads(self.body()))
            case ["api", "validate-yaml"]:
                self.body()
                self.answer({"errors": [], "warnings": []})
            case ["api", "models", _, _, "preupload", _]:
                paths = [file["path"] for file in json.loads(self.body())["files"]]
                modes = {path: "lfs" if path.endswith(LARGE) else "regular" for path in paths}
                listed = [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]
                self.answer({"files": listed})
            case ["api", "models", owner, name, "commit", _]:
                self.commit(f"{owner}/{name}", "create_pr" in parse_qs(urlsplit(self.path).query))
            case [_, _, "info", "lfs", "objects", "batch"]:
                objects = json.loads(self.body())["objects"]
                self.answer({"transfer": "basic", "objects": [self.upload(o) for o in objects]})
            case ["verify"]:
                self.body()
                self.answer({})
            case ["api", "collections"]:
                slug = f"{json.loads(self.body())['namespace']}/zoo-0123456789abcdef01234567"
                known = slug in self.store.collections
                self.store.collections.setdefault(slug, [])
                self.collection(slug, 409 if known else 200)
            case ["api", "collections", owner, name, "items"]:
                self.add(f"{owner}/{name}", json.loads(self.body())["item"]["id"])
            case _:
                self.body()
                self.refuse(404, "EntryNotFound")

    def create(self, asked: dict):
        name = f"{asked.get('organization', 'someone')}/{asked['name']}"
        if name.startswith("theirs/"):
            self.refuse(403, "Forbidden")
        elif name in self.store.repositories:
            self.refuse(409, "")
        else:
            made = self.store.repositories[name] = Repository(private=asked.get("visibility") == "private")
            made.commit({".gitattributes": b"*.safetensors filter=lfs\n"})
            self.answer({"url": f"{self.root}/{name}", "name": name, "id": "0"})

    def add(self, slug: str, item: str):
        if item in self.store.collections[slug]:
            self.refuse(409, "")
        else:
            self.store.collections[slug].append(item)
            self.collection(slug)

    def upload(self, wanted: dict) -> dict:
        if wanted["oid"] in self.store.blobs:
            return wanted
        actions = {
            "upload": {"href": f"{self.root}/blobs/{wanted['oid']}"},
            "verify": {"href": f"{self.root}/verify"},
        }
        return wanted | {"actions": actions}

    def commit(self, name: str, create_pr: bool):
        repository = self.store.repositories[name]
        files = dict(repository.commits[repository.main])
        for line in self.body().decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.store.blobs[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        if create_pr:
            repository.requests += 1
            found = {
                "pullRequestUrl": f"{self.root}/{name}/discussions/{repository.requests}",
                "commitOid": "f" * 40,
            }
        else:
            found = {"commitOid": repository.commit(files)}
        self.answer({"success": True, "commitUrl": f"{self.root}/{name}/commit/{found['commitOid']}"} | found)

    def of_repository(self, name: str, rest: list[str]):
        repository = self.store.repositories.get(name)
        if repository is None:
            self.refuse(404, "RepoNotFound")
            return
        asked = unquote(rest[1]) if len(rest) > 1 else "main"
        oid = repository.main if asked == "main" else asked
        if oid not in repository.commits:
            self.refuse(404, "RevisionNotFound")
            return
        files = repository.commits[oid]
        if rest[:1] == ["tree"]:
            self.tree(files, "/".join(rest[2:]))
            return
        siblings = [{"rfilename": path} for path in files]
        self.answer(
            {"id": name, "sha": oid, "siblings": siblings, "private": repository.private, "tags": []}
            | {"downloads": 0, "likes": 0}
        )

    def tree(self, files: dict[str, bytes], below: str):
        """All files below a folder, or what lies in it."""
        inside = {
            path: content for path, content in files.items() if path.startswith(f"{below}/" * bool(below))
        }
        if not inside:
            self.refuse(404, "EntryNotFound")
        elif parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true":
            self.answer([self.entry(path, content) for path, content in inside.items()])
        else:
            depth = len(below.split("/")) if below else 0
            folders = {"/".join(path.split("/")[: depth + 1]) for path in inside if path.count("/") > depth}
            found = [
                {"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)
            ]
            found += [
                self.entry(path, content) for path, content in inside.items() if path.count("/") == depth
            ]
            self.answer(found)

    def entry(self, path: str, content: bytes) -> dict:
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        found = {"type": "file", "path": path, "size": len(content), "oid": oid}
        if path.endswith(LARGE):
            found["lfs"] = {
                "oid": hashlib.sha256(content).hexdigest(),
                "size": len(content),
                "pointerSize": 130,
            }
        return found

    def file(self, name: str, revision: str, path: str):
        repository = self.store.repositories.get(name)
        if repository is None:
            self.refuse(404, "RepoNotFound")
            return
        oid = repository.main if revision == "main" else revision
        content = repository.commits.get(oid, {}).get(path)
        if content is None:
            self.refuse(404, "EntryNotFound" if oid in repository.commits else "RevisionNotFound")
            return
        if path in self.store.changed:
            content = content[:-1] + bytes([content[-1] ^ 1])
        headers = {"X-Repo-Commit": oid, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if "Range" in self.headers:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            self.answer(content[int(first) : int(last) + 1 if last else None], headers, 206)
        else:
            self.answer(content, headers)

    def collection(self, slug: str, status: int = 200):
        listed = [
            {"_id": str(i), "id": item, "type": "model", "position": i}
            for i, item in enumerate(self.store.collections[slug])
        ]
        about = {
            "slug": slug,
            "title": "zoo",
            "owner": {"name": slug.split("/", maxsplit=1)[0]},
            "items": listed,
        }
        about |= {"lastUpdated": NOW, "position": 0, "private": False, "theme": "blue", "upvotes": 0}
        self.answer(about, status=status)

    @property
    def root(self) -> str:
        return f"http://{self.headers['Host']}"

    def parts(self) -> list[str]:
        return unquote(urlsplit(self.path).path).strip("/").replace(".git/", "/").split("/")

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def guarded(self, work):
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            work()
        else:
            self.body()
            self.refuse(401, "")

    def refuse(self, status: int, code: str):
        self.answer({"error": code}, {"X-Error-Code": code} if code else {}, status)

    def answer(self, body, headers: dict[str, str] | None = None, status: int = 200):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.store.log.append(f"{self.command} {urlsplit(self.path).path} {status}")
        self.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def log_message(self, *_):
        pass


@contextmanager
def stand_in_hub():
    """Yield the store and the environment of a client that talks to it."""
    store = Store()
    handler = type("Bound", (Handler,), {"store": store})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
    }
    try:
        yield store, env
    finally:
        server.shutdown()
        server.server_close()
