"""What the Hub's test double answers: one function per route, and the table of routes."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import yaml
from hub_store import Commit, Refused, Repository, StoredFile, is_lfs
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from hub_double import HubDouble


def _create_repo(hub: HubDouble, request: Request, body: bytes) -> Response:
    wanted = json.loads(body)
    repo_id = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
    try:
        hub.store.create(repo_id, private=wanted.get("visibility") == "private")
    except Refused as refusal:
        return JSONResponse({"error": str(refusal), "url": f"{hub.url}/{repo_id}"}, refusal.status)
    return JSONResponse({"url": f"{hub.url}/{repo_id}", "name": repo_id})


def _validate_yaml(hub: HubDouble, request: Request, body: bytes) -> Response:
    """The checks of the Hub that a model card can fail: well-formed, known relation, plain lists of names."""
    match = re.match(r"\A---\n(.*?)\n---(\n|\Z)", json.loads(body)["content"], re.DOTALL)
    if match is None:
        return JSONResponse({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    errors = []
    try:
        metadata = yaml.safe_load(match[1])
        if not isinstance(metadata, dict):
            errors.append("the metadata is not a mapping")
        else:
            errors += _metadata_errors(metadata)
    except yaml.YAMLError as error:
        errors.append(f"YAML: {error}")
    return JSONResponse(
        {"errors": [{"message": message} for message in errors], "warnings": []}, 400 if errors else 200
    )


def _metadata_errors(metadata: dict[str, Any]) -> Iterator[str]:
    relations = ("adapter", "finetune", "merge", "quantized")
    if metadata.get("base_model_relation", relations[0]) not in relations:
        yield f'"base_model_relation" must be one of {", ".join(relations)}'
    for key in ("license", "library_name", "pipeline_tag"):
        if not isinstance(metadata.get(key, ""), str):
            yield f'"{key}" must be a string'
    for key in ("tags", "language", "datasets"):
        values = metadata.get(key, [])
        if not all(isinstance(value, str) for value in (values if isinstance(values, list) else [values])):
            yield f'"{key}" must be a list of strings'


def _preupload(hub: HubDouble, request: Request, body: bytes, repo: str, rev: str) -> Response:
    files = hub.store.repository(repo).commit_at(rev).files
    answers = []
    for wanted in json.loads(body)["files"]:
        mode = "lfs" if is_lfs(wanted["path"], wanted["size"]) else "regular"
        known = files.get(wanted["path"])
        oid = None if known is None else (known.sha256 if known.lfs else known.blob_id)
        answers.append({"path": wanted["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return JSONResponse({"files": answers})


def _lfs_batch(hub: HubDouble, request: Request, body: bytes, repo: str) -> Response:
    owned = hub.store.repository(repo).owned
    answers = []
    for wanted in json.loads(body)["objects"]:
        answer = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in owned:
            answer["actions"] = {
                "upload": {"href": f"{hub.url}/lfs/{repo}/{wanted['oid']}"},
                "verify": {"href": f"{hub.url}/lfs/{repo}/{wanted['oid']}/verify"},
            }
        answers.append(answer)
    return JSONResponse({"transfer": "basic", "objects": answers}, media_type="application/vnd.git-lfs+json")


def _lfs_put(hub: HubDouble, request: Request, body: bytes, repo: str, oid: str) -> Response:
    file = hub.store.put(body, lfs=True)
    if file.sha256 != oid:
        raise Refused(400, f"the bytes hash to {file.sha256}, not to {oid}")
    hub.store.repository(repo).owned.add(oid)
    return Response()


def _lfs_verify(hub: HubDouble, request: Request, body: bytes, repo: str, oid: str) -> Response:
    if oid not in hub.store.repository(repo).owned:
        raise Refused(404, f"{oid} was not uploaded")
    return JSONResponse({})


def _commit(hub: HubDouble, request: Request, body: bytes, repo: str, rev: str) -> Response:
    header: dict[str, Any] = {}
    changes: dict[str, StoredFile | None] = {}
    for line in body.splitlines():
        item = json.loads(line)
        value = item["value"]
        if item["key"] == "header":
            header = value
        elif item["key"] == "file":
            changes[value["path"]] = hub.store.put(base64.b64decode(value["content"]), lfs=False)
        elif item["key"] == "lfsFile":
            if value["oid"] not in hub.store.blobs:
                raise Refused(400, f"LFS object {value['oid']} is unknown")
            changes[value["path"]] = StoredFile.of(hub.store.blobs[value["oid"]], lfs=True)
        elif item["key"] == "deletedFile":
            changes[value["path"]] = None
        else:
            raise Refused(400, f"The double cannot commit a {item['key']}")
    commit, reference = hub.store.commit(
        repo,
        rev,
        title=header["summary"],
        parent=header.get("parentCommit"),
        changes=changes,
        create_pr=request.query_params.get("create_pr") == "1",
    )
    number = reference.rsplit("/", 1)[-1] if reference else None
    return JSONResponse(
        {
            "commitUrl": f"{hub.url}/{repo}/commit/{commit.oid}",
            "commitOid": commit.oid,
            "pullRequestUrl": f"{hub.url}/{repo}/discussions/{number}" if number else None,
        }
    )


def _paths_info(hub: HubDouble, request: Request, body: bytes, repo: str, rev: str) -> Response:
    files = hub.store.repository(repo).commit_at(rev).files
    wanted = parse_qs(body.decode()).get("paths", [])
    return JSONResponse([files[path].entry(path) for path in wanted if path in files])


def _duplicate(hub: HubDouble, request: Request, body: bytes, repo: str) -> Response:
    wanted = json.loads(body)
    if hub.refuse_duplicates:
        raise Refused(403, "Cannot duplicate files between storage regions")
    failed = hub.store.duplicate(repo, wanted["target"]["name"], [file["sha256"] for file in wanted["files"]])
    return JSONResponse({"failed": failed})


def _tag(hub: HubDouble, request: Request, body: bytes, repo: str, rev: str) -> Response:
    repository, tag = hub.store.repository(repo), json.loads(body)["tag"]
    if tag in repository.tags:
        raise Refused(409, f"Tag reference exists already: {tag}")
    repository.tags[tag] = repository.commit_at(rev).oid
    return JSONResponse({})


def _branch(hub: HubDouble, request: Request, body: bytes, repo: str, rev: str) -> Response:
    repository = hub.store.repository(repo)
    if rev in repository.branches:
        raise Refused(409, f"Reference already exists: {rev}")
    start = json.loads(body or b"{}").get("startingPoint", "main")
    repository.branches[rev] = repository.commit_at(start).oid
    return JSONResponse({})


def _info(hub: HubDouble, request: Request, body: bytes, repo: str, rev: str = "main") -> Response:
    repository = hub.store.repository(repo)
    commit = repository.commit_at(rev)
    return JSONResponse(
        {
            "_id": repo,
            "id": repo,
            "modelId": repo,
            "sha": commit.oid,
            "private": repository.private,
            "tags": [],
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        }
    )


def _tree(hub: HubDouble, request: Request, body: bytes, repo: str, rev: str, folder: str = "") -> Response:
    files = hub.store.repository(repo).commit_at(rev).files
    inside = {path: file for path, file in files.items() if not folder or path.startswith(folder + "/")}
    if folder and not inside:
        raise Refused(404, f"{folder} does not exist on {rev}", "EntryNotFound")
    return JSONResponse([file.entry(path) for path, file in sorted(inside.items())])


def _refs(hub: HubDouble, request: Request, body: bytes, repo: str) -> Response:
    repository = hub.store.repository(repo)

    def listed(prefix: str, references: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": prefix + name, "targetCommit": oid} for name, oid in references.items()]

    return JSONResponse(
        {
            "branches": listed("refs/heads/", repository.branches),
            "tags": listed("refs/tags/", repository.tags),
            "converts": [],
            "pullRequests": listed("", repository.pull_requests),
        }
    )


def _file_at(repository: Repository, commit: Commit, path: str) -> StoredFile:
    if path not in commit.files:
        raise Refused(404, f"Entry not found: {path}", "EntryNotFound")
    return commit.files[path]


def _resolve(hub: HubDouble, request: Request, body: bytes, repo: str, rev: str, path: str) -> Response:
    repository = hub.store.repository(repo)
    commit = repository.commit_at(rev)
    try:
        file = _file_at(repository, commit, path)
    except Refused as refusal:
        headers = {"X-Error-Code": refusal.code, "X-Repo-Commit": commit.oid, "X-Error-Message": str(refusal)}
        return Response(status_code=404, headers=headers)
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.blob_id}"', "Accept-Ranges": "bytes"}
    if file.lfs:
        headers |= {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        # Another origin, as the Hub's storage is: clients must not send their token there.
        storage = hub.url.replace("127.0.0.1", "localhost")
        return Response(status_code=302, headers={**headers, "Location": f"{storage}/cdn/{file.sha256}"})
    return _content(request, hub.store.content(file), headers)


def _cdn(hub: HubDouble, request: Request, body: bytes, oid: str) -> Response:
    if oid not in hub.store.blobs:
        raise Refused(404, "no such blob")
    return _content(request, hub.store.blobs[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})


def _content(request: Request, content: bytes, headers: dict[str, str]) -> Response:
    """The bytes, or the range of them that was asked for."""
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if wanted is None:
        return Response(content, headers=headers, media_type="application/octet-stream")
    first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
    if first >= len(content):
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(content)}"})
    headers = {**headers, "Content-Range": f"bytes {first}-{last}/{len(content)}"}
    return Response(content[first : last + 1], 206, headers, "application/octet-stream")


_REPO = r"(?P<repo>[\w.-]+(?:/[\w.-]+)?)"
_API = rf"/api/models/{_REPO}"
ROUTES: list[tuple[str, str, Callable[..., Response]]] = [
    ("POST", "/api/repos/create", _create_repo),
    ("POST", "/api/validate-yaml", _validate_yaml),
    ("POST", rf"{_API}/preupload/(?P<rev>[^/]+)", _preupload),
    ("POST", rf"{_API}/commit/(?P<rev>[^/]+)", _commit),
    ("POST", rf"{_API}/paths-info/(?P<rev>[^/]+)", _paths_info),
    ("POST", rf"{_API}/lfs-files/duplicate", _duplicate),
    ("POST", rf"{_API}/tag/(?P<rev>[^/]+)", _tag),
    ("POST", rf"{_API}/branch/(?P<rev>[^/]+)", _branch),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _lfs_batch),
    ("PUT", rf"/lfs/{_REPO}/(?P<oid>[0-9a-f]{{64}})", _lfs_put),
    ("POST", rf"/lfs/{_REPO}/(?P<oid>[0-9a-f]{{64}})/verify", _lfs_verify),
    ("GET", _API, _info),
    ("GET", rf"{_API}/revision/(?P<rev>[^/]+)", _info),
    ("GET", rf"{_API}/tree/(?P<rev>[^/]+)", _tree),
    ("GET", rf"{_API}/tree/(?P<rev>[^/]+)/(?P<folder>.+)", _tree),
    ("GET", rf"{_API}/refs", _refs),
    ("GET", rf"/{_REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", _resolve),
    ("HEAD", rf"/{_REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", _resolve),
    ("GET", r"/cdn/(?P<oid>[0-9a-f]{64})", _cdn),
    ("HEAD", r"/cdn/(?P<oid>[0-9a-f]{64})", _cdn),
]
