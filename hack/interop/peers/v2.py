"""A node of koi-net 1.3 and 2.x: assembled from components, handlers are components."""

from dataclasses import dataclass
from pathlib import Path

import control

from koi_net.infra import LogSystem

LogSystem(use_file_handler=False, use_console_handler=False)
control.quiet()

from koi_net.components import Cache, EventQueue, KobjQueue, NodeIdentity
from koi_net.components.interfaces import HandlerType, KnowledgeHandler
from koi_net.config import (
    EventWorkerConfig, FullNodeConfig, FullNodeProfile, KoiNetConfig, NodeContact, NodeProvides, PartialNodeConfig,
    PartialNodeProfile, PollerConfig, ServerConfig,
)
from koi_net.core import FullNode, PartialNode
from koi_net.protocol.edge import EdgeType, generate_edge_bundle
from koi_net.protocol.event import Event, EventType
from koi_net.protocol.knowledge_object import KnowledgeObject
from rid_lib.types import KoiNetEdge, KoiNetNode

asked = control.settings()


def koi_net(profile):
    return KoiNetConfig(
        node_name=asked.name,
        node_profile=profile(provides=NodeProvides(event=asked.event, state=asked.state)),
        rid_types_of_interest=asked.interests,
        event_worker=EventWorkerConfig(max_wait_time=0.2),
        first_contact=NodeContact(rid=asked.contact_rid, url=asked.contact_url))


@dataclass
class Coordinate(KnowledgeHandler):
    """Answers a newcomer: introduces itself, subscribes to its nodes and edges."""

    identity: NodeIdentity
    cache: Cache
    event_queue: EventQueue
    kobj_queue: KobjQueue

    handler_type = HandlerType.Network
    rid_types = (KoiNetNode,)

    def handle(self, kobj: KnowledgeObject):
        if kobj.rid == self.identity.rid or kobj.event_type != EventType.NEW:
            return
        self.event_queue.push(Event.from_bundle(EventType.NEW, self.cache.read(self.identity.rid)), target=kobj.rid)
        self.kobj_queue.push(bundle=generate_edge_bundle(
            source=kobj.rid, target=self.identity.rid, rid_types=[KoiNetNode, KoiNetEdge], edge_type=EdgeType.WEBHOOK))


class FullConfig(FullNodeConfig):
    server: ServerConfig = ServerConfig(port=asked.port)
    koi_net: KoiNetConfig = koi_net(FullNodeProfile)


class PartialConfig(PartialNodeConfig):
    poller: PollerConfig = PollerConfig(polling_interval=1)
    koi_net: KoiNetConfig = koi_net(PartialNodeProfile)


class Full(FullNode):
    config_schema = FullConfig


class Coordinator(Full):
    coordinate = Coordinate


class Partial(PartialNode):
    config_schema = PartialConfig


kind = Coordinator if asked.coordinator else Full if asked.full else Partial
node = kind(root_dir=Path.cwd())


def edge(source, rid_types):
    return generate_edge_bundle(
        source=source, target=node.identity.rid, rid_types=rid_types,
        edge_type=EdgeType.WEBHOOK if asked.full else EdgeType.POLL)


control.run(control.Peer(asked, node.identity.rid, node.cache, node.kobj_queue.push, Event, EventType, edge), node.run)
