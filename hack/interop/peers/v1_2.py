"""A node of koi-net 1.2: assembled from components, handlers are functions."""

import control

control.quiet()

from koi_net.config.full_node import FullNodeConfig, KoiNetConfig as FullKoiNetConfig, NodeProfile as FullProfile, ServerConfig
from koi_net.config.core import EventWorkerConfig, NodeContact
from koi_net.config.partial_node import (
    KoiNetConfig as PartialKoiNetConfig, NodeProfile as PartialProfile, PartialNodeConfig, PollerConfig,
)
from koi_net.core import FullNode, PartialNode
from koi_net.processor.handler import HandlerType, KnowledgeHandler
from koi_net.protocol.edge import EdgeType, generate_edge_bundle
from koi_net.protocol.event import Event, EventType
from koi_net.protocol.node import NodeProvides
from rid_lib.ext import Bundle
from rid_lib.types import KoiNetEdge, KoiNetNode

asked = control.settings()
common = dict(
    node_name=asked.name,
    rid_types_of_interest=asked.interests,
    # Its first poll comes before its handshake and makes it shake hands again:
    # the sooner the first is out, the fewer there are.
    event_worker=EventWorkerConfig(max_wait_time=0.3),
    first_contact=NodeContact(rid=asked.contact_rid, url=asked.contact_url))
provides = NodeProvides(event=asked.event, state=asked.state)


@KnowledgeHandler.create(HandlerType.Network, rid_types=(KoiNetNode,))
def coordinate(ctx, kobj):
    """Answers a newcomer: introduces itself, subscribes to its nodes and edges."""
    if not asked.coordinator or kobj.rid == ctx.identity.rid or kobj.event_type != EventType.NEW:
        return
    ctx.event_queue.push(Event.from_bundle(EventType.NEW, ctx.cache.read(ctx.identity.rid)), kobj.rid)
    ctx.kobj_queue.push(bundle=generate_edge_bundle(
        source=kobj.rid, target=ctx.identity.rid, rid_types=[KoiNetNode, KoiNetEdge], edge_type=EdgeType.WEBHOOK))


class FullConfig(FullNodeConfig):
    server: ServerConfig = ServerConfig(port=asked.port)
    koi_net: FullKoiNetConfig = FullKoiNetConfig(node_profile=FullProfile(provides=provides), **common)


class PartialConfig(PartialNodeConfig):
    poller: PollerConfig = PollerConfig(polling_interval=1)
    koi_net: PartialKoiNetConfig = PartialKoiNetConfig(node_profile=PartialProfile(provides=provides), **common)


class Full(FullNode):
    config_schema = FullConfig
    knowledge_handlers = FullNode.knowledge_handlers + [coordinate]


class Partial(PartialNode):
    config_schema = PartialConfig


node = (Full if asked.full else Partial)()

# 1.2.5 reads its own bundle from the cache to shake hands before the worker has
# written it there, sends FORGET alone and stops: cache it beforehand.
if not node.cache.exists(node.identity.rid):
    node.cache.write(Bundle.generate(node.identity.rid, node.identity.profile.model_dump()))


def edge(source, rid_types):
    return generate_edge_bundle(
        source=source, target=node.identity.rid, rid_types=rid_types,
        edge_type=EdgeType.WEBHOOK if asked.full else EdgeType.POLL)


control.run(control.Peer(asked, node.identity.rid, node.cache, node.kobj_queue.push, Event, EventType, edge), node.run)
