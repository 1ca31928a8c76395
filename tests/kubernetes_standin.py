"""A stand-in for Kubernetes: an API server, and pods that are processes of this machine.

    python tests/kubernetes_standin.py PORT FOLDER

As much of it as Dask's operator, kr8s and kopf use: objects are made, listed by label or field, watched, patched
and deleted, with what they own; a deployment of one replica has a pod, and a new one when its process ends. Of a
container count `args`, `env` (secrets too) and the readiness probe; an empty directory that an environment
variable names is a folder of the pod's own. Images, resources and networks are not looked at: every pod has this
machine's address. Nothing here says how Kubernetes itself behaves; it shows what the other two parties do.
"""

import asyncio
import base64
import contextlib
import copy
import datetime
import json
import os
import re
import signal
import sys
import tempfile
import uuid
from pathlib import Path

import aiohttp
import jsonpatch
from aiohttp import web

DASK = "kubernetes.dask.org/v1"
# group and version, plural: kind, subresources (Dask's kinds have no status of their own)
KINDS = {
    ("v1", "namespaces"): ("Namespace", ()),
    ("v1", "pods"): ("Pod", ("status",)),
    ("v1", "secrets"): ("Secret", ()),
    ("v1", "services"): ("Service", ("status",)),
    ("v1", "events"): ("Event", ()),
    ("apps/v1", "deployments"): ("Deployment", ("status", "scale")),
    (DASK, "daskclusters"): ("DaskCluster", ("scale",)),
    (DASK, "daskworkergroups"): ("DaskWorkerGroup", ("scale",)),
    (DASK, "daskautoscalers"): ("DaskAutoscaler", ()),
    (DASK, "daskjobs"): ("DaskJob", ()),
}
DEPLOYMENTS, PODS, SECRETS = ("apps/v1", "deployments"), ("v1", "pods"), ("v1", "secrets")
PATH = re.compile(
    r"/apis?/((?:[^/]+/)?v1)(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"(?:/(?P<plural>[^/]+))?(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?"
)
Key = tuple[tuple[str, str], str | None, str]  # kind, namespace, name


class Objects:
    """What there is, and all that happened to it, by resource version."""

    def __init__(self) -> None:
        self.held: dict[Key, dict] = {}
        self.events: list[tuple[int, str, Key, dict]] = []
        self.changed = asyncio.Condition()

    def of(self, kind: tuple[str, str]) -> list[tuple[Key, dict]]:
        return [(key, item) for key, item in self.held.items() if key[0] == kind]

    async def tell(self, what: str, key: Key, item: dict) -> None:
        version = len(self.events) + 1
        item["metadata"]["resourceVersion"] = str(version)
        self.events.append((version, what, key, copy.deepcopy(item)))
        async with self.changed:
            self.changed.notify_all()

    async def create(self, key: Key, item: dict) -> dict:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        item["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now, "generation": 1}
        item["metadata"] |= {"name": key[2]} | ({"namespace": key[1]} if key[1] else {})
        if key[0] == ("v1", "services"):
            item.setdefault("status", {"loadBalancer": {}})
        self.held[key] = item
        await self.tell("ADDED", key, item)
        return item

    async def change(self, key: Key, item: dict) -> None:
        self.held[key] = item
        await self.tell("MODIFIED", key, item)
        if "deletionTimestamp" in item["metadata"] and not item["metadata"].get("finalizers"):
            await self.delete(key)

    async def delete(self, key: Key) -> None:
        """With what it owns; what has finalizers is marked only."""
        item = self.held[key]
        if item["metadata"].get("finalizers"):
            if "deletionTimestamp" not in item["metadata"]:
                item["metadata"]["deletionTimestamp"] = item["metadata"]["creationTimestamp"]
                await self.tell("MODIFIED", key, item)
            return
        del self.held[key]
        await self.tell("DELETED", key, item)
        for other in [other for other, child in self.held.items() if owns(item, child)]:
            if other in self.held:
                await self.delete(other)


def owns(item: dict, other: dict) -> bool:
    owners = other["metadata"].get("ownerReferences") or []
    return any(owner["uid"] == item["metadata"]["uid"] for owner in owners)


# ------------------------------------------------------------------------------------------ the API server


def answer(objects: Objects):
    """The handler of all requests."""

    async def handle(request: web.Request) -> web.StreamResponse:
        path = request.path.rstrip("/")
        if path == "/version":
            return web.json_response({"major": "1", "minor": "31", "gitVersion": "v1.31.0"})
        if path == "/api":
            return web.json_response({"kind": "APIVersions", "versions": ["v1"]})
        if path == "/apis":
            return web.json_response({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups()})
        found = PATH.fullmatch(path)
        if found is None:
            return failure(404, "NotFound")
        version, plural = found[1], found["plural"]
        if plural is None:
            return web.json_response(resources(version))
        if (version, plural) not in KINDS:
            return failure(404, "NotFound")
        kind, namespace, name = (version, plural), found["namespace"], found["name"]
        if name is None and request.method == "GET":
            watching = request.query.get("watch") in ("true", "1", "True")
            return await (watch if watching else listing)(objects, request, kind, namespace)
        body = json.loads(await request.text() or "null")
        if request.method == "POST":
            if plural == "events":
                return web.json_response(body, status=201)
            key = (kind, namespace, body["metadata"]["name"])
            if key in objects.held:
                return failure(409, "AlreadyExists")
            return web.json_response(await objects.create(key, body), status=201)
        key = (kind, namespace, name)
        if key not in objects.held:
            return failure(404, "NotFound")
        item = objects.held[key]
        if request.method == "DELETE":
            await objects.delete(key)
        elif request.method == "PATCH":
            new = patched(item, body, request.content_type, kind, found["sub"])
            if new != item:
                await objects.change(key, new)
                item = new
        elif request.method != "GET":
            return failure(405, "MethodNotAllowed")
        return web.json_response(item)

    return handle


def failure(code: int, reason: str) -> web.Response:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}
    return web.json_response({**status, "message": reason}, status=code)


def groups() -> list[dict]:
    found = []
    for version in sorted({version for version, _ in KINDS if "/" in version}):
        name, _, number = version.partition("/")
        served = {"groupVersion": version, "version": number}
        found.append({"name": name, "versions": [served], "preferredVersion": served})
    return found


def resources(version: str) -> dict:
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    found = []
    for (own, plural), (kind, parts) in KINDS.items():
        if own == version:
            common = {"singularName": kind.lower(), "namespaced": plural != "namespaces", "kind": kind}
            found.append({**common, "name": plural, "verbs": verbs})
            found += [{**common, "name": f"{plural}/{part}", "verbs": ["get", "patch"]} for part in parts]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": found}


def fits(request: web.Request, kind: tuple, namespace: str | None, key: Key, item: dict) -> bool:
    if key[0] != kind or namespace not in (None, key[1]):
        return False
    labels = item["metadata"].get("labels") or {}
    for part in filter(None, request.query.get("labelSelector", "").split(",")):
        name, equals, value = part.partition("=")
        if labels.get(name) != value.lstrip("=") if equals else name not in labels:
            return False
    for part in filter(None, request.query.get("fieldSelector", "").split(",")):
        field, _, value = part.partition("=")
        at = item
        for step in field.split("."):
            at = (at or {}).get(step)
        if at != value.lstrip("="):
            return False
    return True


async def listing(objects: Objects, request: web.Request, kind: tuple, namespace: str | None) -> web.Response:
    items = [item for key, item in objects.held.items() if fits(request, kind, namespace, key, item)]
    meta = {"resourceVersion": str(len(objects.events))}
    found = {"kind": f"{KINDS[kind][0]}List", "apiVersion": kind[0], "metadata": meta, "items": items}
    return web.json_response(found)


async def watch(objects: Objects, request: web.Request, kind: tuple, namespace: str | None) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    seen = int(request.query.get("resourceVersion") or 0)
    with contextlib.suppress(ConnectionError):
        while True:
            for version, what, key, item in objects.events[seen:]:
                if fits(request, kind, namespace, key, item):
                    await response.write(json.dumps({"type": what, "object": item}).encode() + b"\n")
                seen = version
            async with objects.changed:
                if len(objects.events) == seen:
                    await objects.changed.wait()
    return response


def patched(item: dict, body, content_type: str, kind: tuple, part: str | None) -> dict:
    """The item after a JSON patch (RFC 6902) or a merge patch (RFC 7396), of the whole or of `part`."""
    if content_type == "application/json-patch+json":
        new = jsonpatch.apply_patch(item, body)
    else:
        new = merged(item, body)
    if part == "scale":  # of Dask's kinds the replicas are the worker's
        new = copy.deepcopy(item)
        (new["spec"]["worker"] if kind[0] == DASK else new["spec"])["replicas"] = body["spec"]["replicas"]
    elif part == "status":
        new = {**copy.deepcopy(item), "status": new.get("status", {})}
    if new.get("spec") != item.get("spec"):
        new["metadata"]["generation"] += 1
    return new


def merged(item, patch):
    if not isinstance(patch, dict):
        return patch
    new = copy.deepcopy(item) if isinstance(item, dict) else {}
    for name, value in patch.items():
        if value is None:
            new.pop(name, None)
        else:
            new[name] = merged(new.get(name), value)
    return new


# ----------------------------------------------------------------------------------- deployments and pods


async def run_pods(objects: Objects, folder: Path) -> None:
    """Keep a pod for each deployment, and a process for each pod. For ever."""
    running: dict[Key, asyncio.subprocess.Process] = {}
    try:
        while True:
            for key, deployment in objects.of(DEPLOYMENTS):
                if not any(owns(deployment, pod) for _, pod in objects.of(PODS)):
                    pod = (PODS, key[1], f"{key[2]}-{uuid.uuid4().hex[:5]}")
                    running[pod] = await start(objects, folder, await objects.create(pod, pod_of(deployment)))
            for key, pod in objects.of(PODS):
                if running[key].returncode is not None:
                    print(f"pod {key[2]} ended ({running[key].returncode})", flush=True)
                    await objects.delete(key)
                elif pod["status"]["phase"] == "Pending" and await ready(pod):
                    conditions = [{"type": name, "status": "True"} for name in ("Ready", "ContainersReady")]
                    status = {"phase": "Running", "podIP": "127.0.0.1", "conditions": conditions}
                    await objects.change(key, {**pod, "status": status})
            for key in set(running) - set(objects.held):
                stop(running.pop(key))
            await asyncio.sleep(0.5)
    finally:
        for process in running.values():
            stop(process)


def pod_of(deployment: dict) -> dict:
    template = copy.deepcopy(deployment["spec"]["template"])
    owner = {"apiVersion": "apps/v1", "kind": "Deployment"}
    owner |= {name: deployment["metadata"][name] for name in ("name", "uid")}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"labels": template["metadata"].get("labels", {}), "ownerReferences": [owner]},
        "spec": template["spec"],
        "status": {"phase": "Pending", "conditions": []},
    }


async def start(objects: Objects, folder: Path, pod: dict) -> asyncio.subprocess.Process:
    """The pod's first container as a process, with a folder of its own."""
    container = pod["spec"]["containers"][0]
    home = tempfile.mkdtemp(prefix=f"{pod['metadata']['name']}-", dir=folder)
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": programs, "LANG": "C.UTF-8", "HOME": home, "TMPDIR": home}
    for item in container.get("env", []):
        if "value" in item:
            environment[item["name"]] = item["value"]
        else:
            of = item["valueFrom"]["secretKeyRef"]
            secret = objects.held[SECRETS, pod["metadata"]["namespace"], of["name"]]
            environment[item["name"]] = base64.b64decode(secret["data"][of["key"]]).decode()
    for mount in container.get("volumeMounts", []):
        for name, value in environment.items():
            if value == mount["mountPath"]:
                environment[name] = f"{home}/{mount['name']}"
    words = [re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], word) for word in container["args"]]
    print(f"pod {pod['metadata']['name']}: {' '.join(words)}", flush=True)
    with open(f"{home}/log", "w") as log:
        return await asyncio.create_subprocess_exec(
            *words, env=environment, cwd=home, stdout=log, stderr=log, start_new_session=True
        )


async def ready(pod: dict) -> bool:
    """What the readiness probe says, if there is one."""
    container = pod["spec"]["containers"][0]
    if "readinessProbe" not in container:
        return True
    probe = container["readinessProbe"]["httpGet"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{ports[probe['port']]}{probe['path']}") as response,
        ):
            return response.status == 200
    except aiohttp.ClientError:
        return False


def stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)


async def main(port: int, folder: Path) -> None:
    objects = Objects()
    await objects.create((("v1", "namespaces"), None, "default"), {"kind": "Namespace", "metadata": {}})
    application = web.Application()
    application.router.add_route("*", "/{any:.*}", answer(objects))
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await run_pods(objects, folder)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
