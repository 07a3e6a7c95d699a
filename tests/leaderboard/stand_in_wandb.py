"""A W&B server for tests: runs, their summaries and files, in memory, behind 127.0.0.1."""

import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

KEY = "0" * 40
ENTITY = "someone"
NOW = "2026-01-01T00:00:00"


@dataclass
class Store:
    runs: dict[str, dict] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    reports: dict[str, dict] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    """Operations that fail the next time."""
    unknown: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Nothing: the client drops its idle connections."""


class Handler(BaseHTTPRequestHandler):
    store: Store
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/graphql":
            asked = json.loads(body)
            name = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            self.graphql(
                name[1] if name else asked["query"][:80], asked.get("variables") or {}, asked["query"]
            )
        elif self.path.endswith("/file_stream"):
            self.stream(urlsplit(self.path).path.split("/")[-2], json.loads(body))
        else:
            self.store.unknown.append(self.path)
            self.answer({})

    def do_PUT(self):
        self.store.files[self.path] = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer({})

    def do_GET(self):
        self.store.unknown.append(self.path)
        self.answer({})

    def graphql(self, name: str, given: dict, query: str):
        self.store.log.append(name)
        operation = getattr(self, f"on_{name}", None)
        if name in self.store.refused:
            self.store.refused.remove(name)
            self.answer({"errors": [{"message": f"{name} is not allowed"}]})
        elif operation is None:
            self.store.unknown.append(f"{name} {json.dumps(given)[:300]} {query[:1500]}")
            self.answer({"data": {}})
        else:
            self.answer({"data": operation(given)})

    def on_Viewer(self, _):
        return {
            "viewer": {"id": "u", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}
        }

    def on_GetDefaultEntity(self, given: dict):
        return self.on_Viewer(given)

    def on_UpsertBucket(self, given: dict):
        name = given["name"]
        run = self.store.runs.setdefault(
            name,
            {"config": {}, "summary": {}, "project": given["project"], "number": len(self.store.runs)},
        )
        run["display"] = given.get("displayName") or run.get("display") or name
        run["job"] = given.get("jobType") or run.get("job")
        if given.get("config"):
            run["config"] |= json.loads(given["config"])
        about = {
            "id": f"id-{name}",
            "name": name,
            "displayName": run["display"],
            "config": json.dumps(run["config"]),
        }
        about |= {"description": "", "sweepName": None, "historyLineCount": 0}
        about["project"] = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": ENTITY}}
        return {"upsertBucket": {"bucket": about, "inserted": True}}

    def on_RunResumeStatus(self, given: dict):
        run = self.store.runs.get(given["name"])
        about = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": ENTITY}}
        if run is None:
            return {"model": about | {"bucket": None}}
        bucket = {"id": f"id-{given['name']}", "name": given["name"], "displayName": run["display"]}
        bucket |= {"summaryMetrics": json.dumps(run["summary"]), "config": json.dumps(run["config"])}
        bucket |= {"logLineCount": 0, "historyLineCount": 0, "eventsLineCount": 0, "tags": [], "notes": None}
        bucket |= {"historyTail": "[]", "eventsTail": "[]", "wandbConfig": json.dumps({"t": 1})}
        return {"model": about | {"bucket": bucket}}

    def on_OrganizationCoreWeaveOrganizationID(self, _):
        return {"entity": {"organization": None}}

    def on_ArtifactType(self, _):
        return {"project": None}

    def on_CreateArtifact(self, _):
        """Known already: its content is also among the run's files."""
        artifact = {"id": "a", "state": "COMMITTED", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def on_ServerFeaturesQuery(self, _):
        return {"serverInfo": {"features": []}}

    def on_CreateRunFiles(self, given: dict):
        listed = [
            {"name": n, "uploadUrl": f"http://{self.headers['Host']}/put/{given['run']}/{n}"}
            for n in given["files"]
        ]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": listed}}

    def on_Runs(self, given: dict):
        nodes = [
            self.node(name, run)
            for name, run in self.store.runs.items()
            if run["project"] == given["project"]
        ]
        if not nodes:
            return {"project": None}
        project = {"internalId": "1", "runCount": len(nodes), "readOnly": False}
        return {"project": project | {"runs": self.page(nodes)}}

    def on_GetProjects(self, _):
        about = {"id": "p", "entityName": ENTITY, "createdAt": NOW, "isBenchmark": False, "user": None}
        names = sorted({run["project"] for run in self.store.runs.values()})
        return {"models": self.page([about | {"name": name} for name in names])}

    def on_ProjectInternalId(self, _):
        return {"project": {"id": "p", "internalId": "1"}}

    def on_ProjectViews(self, given: dict):
        nodes = [
            report for report in self.store.reports.values() if report["project"]["name"] == given["project"]
        ]
        return {"project": {"allViews": self.page(nodes)}}

    def on_upsertView(self, given: dict):
        key = given["id"] or f"report-{len(self.store.reports)}"
        about = {name: given[name] for name in ("type", "name", "displayName", "description", "spec")}
        about |= {"id": key, "updatedAt": NOW, "createdAt": NOW}
        about["project"] = {"id": "p", "name": given["projectName"], "entityName": given["entityName"]}
        self.store.reports[key] = about
        return {"upsertView": {"view": about, "inserted": not given["id"]}}

    def page(self, nodes: list[dict]) -> dict:
        edges = [{"node": node, "cursor": str(i)} for i, node in enumerate(nodes)]
        return {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}

    def node(self, name: str, run: dict) -> dict:
        return {
            "projectId": "1",
            "id": f"id-{name}",
            "tags": [],
            "name": name,
            "displayName": run["display"],
            "sweepName": None,
            "state": "finished",
            "config": json.dumps(run["config"]),
            "group": None,
            "jobType": run["job"],
            "commit": None,
            "readOnly": False,
            "createdAt": NOW,
            "heartbeatAt": NOW,
            "description": "",
            "notes": None,
            "systemMetrics": "{}",
            "summaryMetrics": json.dumps(run["summary"]),
            "historyLineCount": 0,
            "user": {"name": ENTITY, "username": ENTITY},
            "historyKeys": None,
        }

    def stream(self, name: str, sent: dict):
        run = self.store.runs[name]
        for line in sent.get("files", {}).get("wandb-summary.json", {}).get("content", []):
            run["summary"] |= json.loads(line)
        self.answer({"exitcode": None, "limits": {}})

    def answer(self, value, status: int = 200):
        raw = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        pass


@contextmanager
def stand_in_wandb():
    """Yield the store and the environment of a client that talks to it."""
    store = Store()
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"store": store}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {
        "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}",
        "WANDB_API_KEY": KEY,
        "WANDB_MODE": "online",
    }
    try:
        yield store, env
    finally:
        server.shutdown()
        server.server_close()
