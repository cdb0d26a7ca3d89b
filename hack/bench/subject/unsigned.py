"""A full node of koi-net 1.0.0b5, served as the library's README has it.

As shipped, it logs as the release's own examples do: rich's handler on the
console, the library at debug level. In one thing it differs: one thread
processes at a time, or two that find the last object at once leave one of them
waiting for ever.
"""

import json
import logging
import sys
import threading
from contextlib import asynccontextmanager
from pathlib import Path

asked = json.loads(sys.argv[1])
if asked["quiet"]:
    logging.disable(logging.CRITICAL)
else:
    from rich.logging import RichHandler

    logging.basicConfig(
        level=logging.INFO, format="%(name)s - %(message)s", datefmt="%Y-%m-%d %H:%M:%S", handlers=[RichHandler()])
    logging.getLogger("koi_net").setLevel(logging.DEBUG)

import uvicorn
from fastapi import BackgroundTasks, FastAPI
from koi_net import NodeInterface
from koi_net.processor.knowledge_object import KnowledgeSource
from koi_net.protocol.api_models import (
    BundlesPayload, EventsPayload, FetchBundles, FetchManifests, FetchRids, ManifestsPayload, PollEvents, RidsPayload,
)
from koi_net.protocol.consts import (
    BROADCAST_EVENTS_PATH, FETCH_BUNDLES_PATH, FETCH_MANIFESTS_PATH, FETCH_RIDS_PATH, POLL_EVENTS_PATH,
)
from koi_net.protocol.node import NodeProfile, NodeProvides, NodeType
from rid_lib.core import RIDType

types = [RIDType.from_string(t) for t in asked["provides"]]
node = NodeInterface(
    name=asked["name"],
    profile=NodeProfile(
        base_url=f"http://127.0.0.1:{asked['port']}/koi-net",
        node_type=NodeType.FULL,
        provides=NodeProvides(event=types, state=types)))
Path("rid").write_text(str(node.identity.rid))
one_at_a_time = threading.Lock()


@asynccontextmanager
async def lifespan(_):
    node.initialize()
    yield
    node.finalize()


app = FastAPI(lifespan=lifespan, root_path="/koi-net")


def flush():
    with one_at_a_time:
        node.processor.flush_kobj_queue()


@app.post(BROADCAST_EVENTS_PATH)
def broadcast_events(req: EventsPayload, background: BackgroundTasks):
    for event in req.events:
        node.processor.handle(event=event, source=KnowledgeSource.External)
    background.add_task(flush)


@app.post(POLL_EVENTS_PATH)
def poll_events(req: PollEvents) -> EventsPayload:
    return EventsPayload(events=node.network.flush_poll_queue(req.rid))


@app.post(FETCH_RIDS_PATH)
def fetch_rids(req: FetchRids) -> RidsPayload:
    return node.network.response_handler.fetch_rids(req)


@app.post(FETCH_MANIFESTS_PATH)
def fetch_manifests(req: FetchManifests) -> ManifestsPayload:
    return node.network.response_handler.fetch_manifests(req)


@app.post(FETCH_BUNDLES_PATH)
def fetch_bundles(req: FetchBundles) -> BundlesPayload:
    return node.network.response_handler.fetch_bundles(req)


quieter = {"log_config": None, "access_log": False} if asked["quiet"] else {}
uvicorn.run(app, host="127.0.0.1", port=asked["port"], **quieter)
