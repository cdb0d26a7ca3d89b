"""A node of koi-net 1.0: the library handles knowledge, the program serves it.

1.0.0b5 and 1.0.0 differ in how a node is configured and flushed, and in what
their default handlers do; both leave the web server and the polling loop to
the program.
"""

import threading
import time
from contextlib import asynccontextmanager

import control

control.quiet()

import httpx
import uvicorn
from fastapi import APIRouter, BackgroundTasks, FastAPI
from koi_net import NodeInterface
from koi_net.processor.handler import HandlerType
from koi_net.processor.knowledge_object import KnowledgeSource
from koi_net.protocol.api_models import (
    BundlesPayload, EventsPayload, FetchBundles, FetchManifests, FetchRids, ManifestsPayload, PollEvents, RidsPayload,
)
from koi_net.protocol.consts import (
    BROADCAST_EVENTS_PATH, FETCH_BUNDLES_PATH, FETCH_MANIFESTS_PATH, FETCH_RIDS_PATH, POLL_EVENTS_PATH,
)
from koi_net.protocol.edge import EdgeType
from koi_net.protocol.event import Event, EventType
from koi_net.protocol.helpers import generate_edge_bundle
from koi_net.protocol.node import NodeProfile, NodeProvides, NodeType
from rid_lib.types import KoiNetEdge, KoiNetNode

try:
    from koi_net.config import KoiNetConfig, NodeConfig, ServerConfig
except ImportError:
    NodeConfig = None  # 1.0.0b5 has no configuration file

asked = control.settings()
profile = NodeProfile(
    base_url=asked.url,
    node_type=NodeType.FULL if asked.full else NodeType.PARTIAL,
    provides=NodeProvides(event=asked.event, state=asked.state),
)
one_at_a_time = threading.RLock()


def build():
    if NodeConfig is None:
        return NodeInterface(name=asked.name, profile=profile, first_contact=asked.contact_url)

    class Config(NodeConfig):
        # A partial node is given the default URL, at which nobody listens.
        server: ServerConfig = ServerConfig(port=asked.port) if asked.full else ServerConfig()
        koi_net: KoiNetConfig = KoiNetConfig(
            node_name=asked.name, node_profile=profile, first_contact=asked.contact_url)

    return NodeInterface(config=Config.load_from_yaml("config.yaml"))


node = build()
start, finish = (node.initialize, node.finalize) if NodeConfig is None else (node.start, node.stop)


def flush():
    with one_at_a_time:
        node.processor.flush_kobj_queue()


def handle(**what):
    if "source" in what:
        what["source"] = KnowledgeSource.External  # who it was is not known without signatures
    with one_at_a_time:
        node.processor.handle(**what)
        node.processor.flush_kobj_queue()


def edge(source, rid_types):
    return generate_edge_bundle(
        source=source, target=node.identity.rid, rid_types=rid_types,
        edge_type=EdgeType.WEBHOOK if asked.full else EdgeType.POLL)


@node.processor.register_handler(HandlerType.Network, rid_types=[KoiNetNode])
def contact_providers(processor, kobj):
    """Subscribes to what is of interest and fetches what is there already."""
    if kobj.rid == node.identity.rid or kobj.normalized_event_type == EventType.FORGET:
        return
    theirs = kobj.bundle.validate_contents(NodeProfile)
    types = [t for t in asked.interests if t in theirs.provides.event]
    if NodeConfig is not None and KoiNetNode in types:
        return  # a coordinator: the library's own handler sees to it
    if not types or node.network.graph.get_edge_profile(source=kobj.rid, target=node.identity.rid):
        return
    processor.handle(bundle=edge(kobj.rid, types))
    if theirs.node_type != NodeType.FULL:
        return
    for rid in node.network.request_handler.fetch_rids(node=kobj.rid, rid_types=types).rids:
        if rid != node.identity.rid and not node.cache.exists(rid):
            processor.handle(rid=rid, source=KnowledgeSource.External)


@node.processor.register_handler(HandlerType.Network, rid_types=[KoiNetNode])
def coordinate(processor, kobj):
    """Answers a newcomer: introduces itself, subscribes to its nodes and edges."""
    if not asked.coordinator or kobj.rid == node.identity.rid or kobj.event_type != EventType.NEW:
        return
    node.network.push_event_to(Event.from_bundle(EventType.NEW, node.identity.bundle), kobj.rid, flush=True)
    processor.handle(bundle=generate_edge_bundle(
        source=kobj.rid, target=node.identity.rid, rid_types=[KoiNetNode, KoiNetEdge], edge_type=EdgeType.WEBHOOK))


routes = APIRouter()


@routes.post(BROADCAST_EVENTS_PATH)
def broadcast(req: EventsPayload, background: BackgroundTasks):
    for event in req.events:
        node.processor.handle(event=event, source=KnowledgeSource.External)
    background.add_task(flush)


@routes.post(POLL_EVENTS_PATH)
def poll(req: PollEvents) -> EventsPayload:
    return EventsPayload(events=node.network.flush_poll_queue(req.rid))


@routes.post(FETCH_RIDS_PATH)
def fetch_rids(req: FetchRids) -> RidsPayload:
    return node.network.response_handler.fetch_rids(req)


@routes.post(FETCH_MANIFESTS_PATH)
def fetch_manifests(req: FetchManifests) -> ManifestsPayload:
    return node.network.response_handler.fetch_manifests(req)


@routes.post(FETCH_BUNDLES_PATH)
def fetch_bundles(req: FetchBundles) -> BundlesPayload:
    return node.network.response_handler.fetch_bundles(req)


def start_locked():
    with one_at_a_time:
        start()


@asynccontextmanager
async def lifespan(_):
    start_locked()
    yield
    finish()


def serve():
    app = FastAPI(lifespan=lifespan)
    app.include_router(routes, prefix="/koi-net")
    uvicorn.run(app, host="127.0.0.1", port=asked.port, log_config=None)


def keep_polling():
    start_locked()
    try:
        while True:
            try:
                with one_at_a_time:
                    for event in node.network.poll_neighbors():
                        node.processor.handle(event=event, source=KnowledgeSource.External)
                    node.processor.flush_kobj_queue()
            except httpx.HTTPError as err:  # the library survives a refused connection alone
                print("poll:", repr(err))
            time.sleep(0.5)
    finally:
        finish()


control.run(
    control.Peer(asked, node.identity.rid, node.cache, handle, Event, EventType, edge),
    serve if asked.full else keep_polling)
