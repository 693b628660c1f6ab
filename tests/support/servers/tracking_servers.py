"""Stand-ins for the servers of Weights & Biases and of MLflow, as far as a run needs them."""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

Answer = tuple[int, Any]
"""HTTP status and JSON."""


@dataclass
class Server:
    """`asked` is every request: method and path, authorization, JSON. A `status` that is set answers everything."""

    url: str = ""
    asked: list[tuple[str, str | None, Any]] = field(default_factory=list)
    status: int | None = None

    def bodies(self, path: str) -> list[Any]:
        """JSON of the requests whose path contains `path`."""
        return [body for asked, _, body in self.asked if path in asked]


@contextmanager
def serving(server: Server, answer: Callable[[str, Any], Answer]) -> Iterator[None]:
    """`server` on a free loopback port; `answer` is given path and body."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            text = gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data
            body = json.loads(text) if text.startswith(b"{") else text.decode(errors="replace")
            server.asked.append((f"{self.command} {self.path}", self.headers.get("Authorization"), body))
            status, content = (server.status, {}) if server.status else answer(self.path, body)
            encoded = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        do_GET = do_PUT = do_POST  # noqa: N815 -- names that the base class looks for

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@dataclass
class WandbServer(Server):
    """GraphQL for the run itself, and the file stream that takes its history."""

    known: bool = False

    def answer(self, path: str, body: Any) -> Answer:
        """What a server says that has the run if it is `known`."""
        if path != "/graphql":
            return 200, {"exitcode": None, "limits": {}}
        project = {"id": "p", "name": "project", "entity": {"id": "e", "name": "team"}}
        operation, variables = body.get("operationName"), body["variables"]
        if operation == "RunResumeStatus":
            return 200, {"data": {"model": {**project, "bucket": self._bucket() if self.known else None}}}
        if operation == "UpsertBucket":
            new, self.known = not self.known, True
            bucket = {"id": "b", "name": variables["name"], "displayName": "", "project": project}
            return 200, {"data": {"upsertBucket": {"bucket": bucket, "inserted": new}}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
            return 200, {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}}
        return 200, {"data": {}}

    def _bucket(self) -> Mapping[str, Any]:
        empty = {"summaryMetrics": "{}", "historyTail": "[]", "eventsTail": "[]", "config": "{}", "wandbConfig": "{}"}
        counts = {"logLineCount": 0, "historyLineCount": 2, "eventsLineCount": 0}
        return {"id": "b", "name": "b", "displayName": "", "tags": [], "notes": "", **empty, **counts}

    @property
    def runs(self) -> list[Mapping[str, Any]]:
        """Each time that a run was made or taken up."""
        return [body["variables"] for body in self.bodies("/graphql") if body.get("operationName") == "UpsertBucket"]

    @property
    def history(self) -> list[Mapping[str, Any]]:
        """Every line of the run's history."""
        streams = [body.get("files", {}).get("wandb-history.jsonl", {}) for body in self.bodies("/file_stream")]
        return [json.loads(line) for stream in streams for line in stream.get("content", [])]

    @property
    def exit_codes(self) -> list[int]:
        """How the run was said to have ended."""
        return [body["exitcode"] for body in self.bodies("/file_stream") if "exitcode" in body]


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """A server for one run."""
    server = WandbServer()
    with serving(server, server.answer):
        yield server


@dataclass
class MlflowServer(Server):
    """The REST API that the client uses. https://mlflow.org/docs/latest/rest-api.html."""

    experiments: dict[str, str] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def answer(self, path: str, body: Any) -> Answer:
        """Keep and tell."""
        name = path.partition("?")[0].removeprefix("/api/2.0/mlflow/")
        known: Mapping[str, Callable[[Any], Answer]] = {
            "experiments/create": self._create_experiment,
            "experiments/get-by-name": self._get_experiment,
            "runs/create": self._create_run,
            "runs/search": self._search,
            "runs/update": self._update,
            "runs/log-batch": self._log,
            "runs/get": lambda _body: (200, {"run": self._run(path.rpartition("run_id=")[2].partition("&")[0])}),
        }
        return known[name](body) if name in known else (404, {"error_code": "ENDPOINT_NOT_FOUND", "message": path})

    def _create_experiment(self, body: Any) -> Answer:
        if body["name"] in self.experiments:
            return 400, {"error_code": "RESOURCE_ALREADY_EXISTS", "message": "it exists"}
        self.experiments[body["name"]] = str(len(self.experiments) + 1)
        return 200, {"experiment_id": self.experiments[body["name"]]}

    def _get_experiment(self, _body: Any) -> Answer:
        ((known, number),) = self.experiments.items()
        return 200, {"experiment": {"experiment_id": number, "name": known, "lifecycle_stage": "active"}}

    def _create_run(self, body: Any) -> Answer:
        number = f"run{len(self.runs) + 1}"
        self.runs[number] = {"status": "RUNNING", "metrics": [], "params": {}, "asked": body}
        return 200, {"run": self._run(number)}

    def _search(self, body: Any) -> Answer:
        return 200, {"runs": [self._run(number) for number in self.runs if self._fits(number, body["filter"])]}

    def _update(self, body: Any) -> Answer:
        self.runs[body["run_id"]]["status"] = body["status"]
        return 200, {"run_info": self._run(body["run_id"])["info"]}

    def _log(self, body: Any) -> Answer:
        run = self.runs[body["run_id"]]
        run["metrics"] += body.get("metrics", [])
        run["params"] |= {one["key"]: one["value"] for one in body.get("params", [])}
        return 200, {}

    def _fits(self, number: str, wanted: str) -> bool:
        tags = self.runs[number]["asked"]["tags"]
        return any(wanted == f"tags.`{tag['key']}` = '{tag['value']}'" for tag in tags)

    def _run(self, number: str) -> Mapping[str, Any]:
        run = self.runs[number]
        info = {"run_id": number, "run_uuid": number, "experiment_id": "1", "status": run["status"]}
        return {"info": {**info, "lifecycle_stage": "active"}, "data": {"tags": run["asked"]["tags"]}}

    def values(self, name: str) -> list[tuple[int, float]]:
        """Steps and values of a metric, as they came."""
        return [
            (int(one["step"]), one["value"])
            for run in self.runs.values()
            for one in run["metrics"]
            if one["key"] == name
        ]


@contextmanager
def mlflow_server() -> Iterator[MlflowServer]:
    """A server without runs."""
    server = MlflowServer()
    with serving(server, server.answer):
        yield server
