"""A node of koi-net 1.1: NodeInterface with a server and a poller of its own."""

import threading
import traceback

import control

control.quiet()

from koi_net import NodeInterface
from koi_net.config import KoiNetConfig, NodeConfig, NodeContact, ServerConfig
from koi_net.processor.handler import HandlerType
from koi_net.protocol.edge import EdgeType, generate_edge_bundle
from koi_net.protocol.event import Event, EventType
from koi_net.protocol.node import NodeProfile, NodeProvides, NodeType
from rid_lib.types import KoiNetEdge, KoiNetNode

asked = control.settings()


class Config(NodeConfig):
    server: ServerConfig = ServerConfig(port=asked.port)
    koi_net: KoiNetConfig = KoiNetConfig(
        node_name=asked.name,
        node_profile=NodeProfile(
            node_type=NodeType.FULL if asked.full else NodeType.PARTIAL,
            provides=NodeProvides(event=asked.event, state=asked.state)),
        polling_interval=1,
        first_contact=NodeContact(rid=asked.contact_rid, url=asked.contact_url))


# The poller flushes the queue itself, which a worker thread must not do as well.
node = NodeInterface(config=Config.load_from_yaml("config.yaml"), use_kobj_processor_thread=asked.full)


def edge(source, rid_types):
    return generate_edge_bundle(
        source=source, target=node.identity.rid, rid_types=rid_types,
        edge_type=EdgeType.WEBHOOK if asked.full else EdgeType.POLL)


@node.pipeline.register_handler(HandlerType.Network, rid_types=[KoiNetNode])
def contact_providers(ctx, kobj):
    """Subscribes to what is of interest; the library's own handler sees to coordinators."""
    if kobj.rid == ctx.identity.rid or kobj.normalized_event_type == EventType.FORGET:
        return
    theirs = kobj.bundle.validate_contents(NodeProfile)
    types = [t for t in asked.interests if t in theirs.provides.event]
    if KoiNetNode in types or not types or ctx.graph.get_edge(source=kobj.rid, target=ctx.identity.rid):
        return
    ctx.handle(bundle=edge(kobj.rid, types))
    if theirs.node_type != NodeType.FULL:
        return
    listed = ctx.request_handler.fetch_rids(node=kobj.rid, rid_types=types)
    for rid in getattr(listed, "rids", []):  # or it is the peer's error answer
        if rid != ctx.identity.rid and not ctx.cache.exists(rid):
            ctx.handle(rid=rid, source=kobj.rid)


@node.pipeline.register_handler(HandlerType.Network, rid_types=[KoiNetNode])
def coordinate(ctx, kobj):
    """Answers a newcomer: introduces itself, subscribes to its nodes and edges."""
    if not asked.coordinator or kobj.rid == ctx.identity.rid or kobj.event_type != EventType.NEW:
        return
    own = ctx.effector.deref(ctx.identity.rid)
    ctx.event_queue.push_event_to(Event.from_bundle(EventType.NEW, own), kobj.rid, flush=True)
    ctx.handle(bundle=generate_edge_bundle(
        source=kobj.rid, target=ctx.identity.rid, rid_types=[KoiNetNode, KoiNetEdge], edge_type=EdgeType.WEBHOOK))


one_at_a_time = threading.RLock()


def handle(**what):
    node.processor.handle(**what)
    if not asked.full:
        with one_at_a_time:
            node.processor.flush_kobj_queue()


unlocked_flush = node.processor.flush_kobj_queue


def locked_flush():
    with one_at_a_time:
        unlocked_flush()


if not asked.full:
    node.processor.flush_kobj_queue = locked_flush



def keep_polling():
    while True:
        try:
            node.poller.run()
            return
        except Exception:  # the library survives a refused connection alone, and ends
            traceback.print_exc()


control.run(
    control.Peer(asked, node.identity.rid, node.cache, handle, Event, EventType, edge),
    node.server.run if asked.full else keep_polling)
