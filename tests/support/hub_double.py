"""A Hub on loopback for the tests: the routes that huggingface_hub and transformers use to publish and to download.

In a test, `with HubDouble().serving() as hub:` serves from a thread; `hub.url` is the endpoint. As a program,
`python tests/hub_double.py --repo ORG/NAME=FOLDER` serves until it is stopped and prints its address.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import uvicorn
from hub_routes import ROUTES
from hub_store import Refused, Store
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

TOKEN = "hf_testDoubleTokenThatNobodyShouldSee"


@dataclass
class Fault:
    """What goes wrong at the `at`-th request since `HubDouble.arm`, counted from 1.

    Attributes:
        at: the request.
        kind: an HTTP status such as 500; "drop": the connection ends in the middle of an answer; "none": only `before`.
        persistent: every later request fails too.
        served: the request is carried out first and only its answer is lost.
        only: a part of the path; requests without it are not counted.
        before: called when the fault strikes, for instance to kill a client.
    """

    at: int
    kind: int | str = "drop"
    persistent: bool = False
    served: bool = False
    only: str = ""
    before: Callable[[], object] | None = None

    def strikes(self, number: int) -> bool:
        return number == self.at or (self.persistent and number > self.at)


@dataclass
class LoggedRequest:
    """One request as the server saw it; the value of a token is not kept."""

    method: str
    path: str
    authorized: bool
    received: int = 0
    status: int | None = None


@dataclass
class HubDouble:
    """A Hub: its repositories, the log of its requests and the faults that tests ask for.

    Attributes:
        store: the repositories.
        log: every request in the order of arrival.
        faults: what goes wrong; see `arm`.
        refuse_duplicates: answers the copying of blobs between repositories with 403, as the Hub does between regions.
        require_token: reading private repos and every change need the token `TOKEN`.
    """

    store: Store = field(default_factory=Store)
    log: list[LoggedRequest] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    refuse_duplicates: bool = False
    require_token: bool = True
    url: str = ""
    _counted: dict[int, int] = field(default_factory=dict)

    def arm(self, *faults: Fault) -> None:
        """Replaces the faults and starts counting requests anew."""
        self.faults, self._counted, self.log = list(faults), {}, []

    def bytes_received(self) -> int:
        """Bytes of all request bodies since `arm`."""
        return sum(request.received for request in self.log)

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a commit with their content."""
        commit = self.store.repository(repo_id).commit_at(revision)
        return {path: self.store.content(file) for path, file in commit.files.items()}

    def tree(self, repo_id: str, revision: str = "main") -> dict[str, tuple[str, bool]]:
        """Git hash and storage (LFS or not) of every file of a commit."""
        commit = self.store.repository(repo_id).commit_at(revision)
        return {path: (file.blob_id, file.lfs) for path, file in commit.files.items()}

    @contextlib.contextmanager
    def serving(self, port: int = 0) -> Iterator[HubDouble]:
        """Serves from a thread until the block ends."""
        listener = socket.create_server(("127.0.0.1", port))
        # Heads and bodies are two packets; without this the second one waits 40 ms for the first one's receipt.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = uvicorn.Server(uvicorn.Config(self, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.005)
            yield self
        finally:
            server.should_exit = True
            thread.join()
            listener.close()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI application: counts, fails where a fault strikes, and otherwise answers by `routes`."""
        request = Request(scope, receive)
        logged = LoggedRequest(request.method, request.url.path, "authorization" in request.headers)
        self.log.append(logged)
        fault = self._fault_for(logged.path)
        if fault is not None and fault.before is not None:
            fault.before()
        if fault is not None and fault.kind == "none":
            fault = None
        if fault is not None and not fault.served:
            await self._fail(fault, scope, receive, send)
            return
        body = await request.body()
        logged.received = len(body)
        try:
            response = self._answer(request, body)
        except Refused as refusal:
            headers = {"X-Error-Message": str(refusal), **({"X-Error-Code": refusal.code} if refusal.code else {})}
            response = JSONResponse({"error": str(refusal)}, refusal.status, headers)
        logged.status = response.status_code
        if fault is not None:
            await self._fail(fault, scope, receive, send)
        else:
            await response(scope, receive, send)

    def _fault_for(self, path: str) -> Fault | None:
        struck = None
        for index, fault in enumerate(self.faults):
            if fault.only in path:
                self._counted[index] = self._counted.get(index, 0) + 1
                if fault.strikes(self._counted[index]):
                    struck = fault
        return struck

    async def _fail(self, fault: Fault, scope: Any, receive: Any, send: Any) -> None:
        if isinstance(fault.kind, int):
            headers = {"Retry-After": "1"} if fault.kind == 429 else {}
            await JSONResponse({"error": f"injected {fault.kind}"}, fault.kind, headers)(scope, receive, send)
            return
        # Announcing more bytes than are sent makes uvicorn close the connection in the middle of the answer.
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})

    def _answer(self, request: Request, body: bytes) -> Response:
        path = request.scope.get("raw_path", request.url.path.encode()).decode().split("?")[0]
        for method, pattern, handler in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and request.method == method:
                parts = {name: unquote(value) for name, value in match.groupdict().items()}
                self._authorize(request, parts.get("repo"))
                return handler(self, request, body, **parts)
        raise Refused(404, f"The double has no route for {request.method} {path}")

    def _authorize(self, request: Request, repo_id: str | None) -> None:
        repository = self.store.repositories.get(repo_id or "")
        path = request.url.path
        reads = request.method in ("GET", "HEAD") or "/paths-info/" in path or path.endswith("validate-yaml")
        signed = request.method == "PUT"  # an upload address is its own permission, as the Hub's are
        if not self.require_token or signed or (reads and not (repository and repository.private)):
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if given != TOKEN:
            raise Refused(401, "Invalid credentials in Authorization header" if given else "Not authenticated")


def main() -> None:
    parser = argparse.ArgumentParser(description="Serves a Hub on loopback until it is stopped.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--repo", action="append", default=[], metavar="ORG/NAME=FOLDER", help="a repo to begin with")
    arguments = parser.parse_args()
    hub = HubDouble(require_token=False)
    for repo in arguments.repo:
        repo_id, _, folder = repo.partition("=")
        root = Path(folder)
        hub.store.seed(repo_id, {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()})
    with hub.serving(arguments.port):
        print(hub.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
