"""Makes the directories beside this file: what a node of the Python library leaves on disk.

Each is made by the library itself, in the release it is named after:

    PYTHONPATH=<koi-net of that release>:<rid-lib> PRIV_KEY_PASSWORD=reflab-password python golden.py RELEASE DIR

The node knows a coordinator, an edge each way between the two, a second-hand
node, and notes whose contents are awkward to write and to hash. Nothing runs and nothing is
sent: configuration, key, cache and queues are written by the library's own code.
"""
import json
import os
import sys
from pathlib import Path

release, target = sys.argv[1], Path(sys.argv[2])
target.mkdir(parents=True)
os.chdir(target)
old = release.startswith("1.0")

from rid_lib import RID  # noqa: E402
from rid_lib.core import RIDType  # noqa: E402
from rid_lib.ext import Bundle  # noqa: E402
from rid_lib.types import KoiNetEdge, KoiNetNode  # noqa: E402
from koi_net.protocol.edge import EdgeProfile, EdgeStatus, EdgeType  # noqa: E402
from koi_net.protocol.event import Event, EventType  # noqa: E402
from koi_net.protocol.node import NodeProfile, NodeProvides, NodeType  # noqa: E402

NOTE = RIDType.from_string("orn:example.note")
CONTACT = "http://127.0.0.1:8000/koi-net"

CONTENTS = {
    "orn:example.note:plain": {"text": "hello"},
    "orn:example.note:nothing": {},
    "orn:example.note:Überschrift/ä:b c?d=e#f": {"text": "Grüße \U0001f600 \u2028 \"q\" \\ \t", "ä": [], "a": {}},
    "orn:example.note:numbers": {
        "int": 12345678901234567890, "small": 1e-05, "large": 1e17, "half": 0.5, "whole": 1.0,
        "zero": -0.0, "list": [1, -2, 3.25, True, False, None],
    },
    "orn:example.note:nested": {"a": {"b": {"c": [{"d": [[], {}]}]}}},
    "https://example.com/page?a=b": {"title": "A page"},
    "orn:example.report:1": {"text": "from elsewhere"},
}


def keyed(name):
    from koi_net.protocol.secure import PrivateKey
    from rid_lib.ext.utils import sha256_hash
    pub = PrivateKey.generate().public_key()
    return KoiNetNode(name, sha256_hash(pub.to_der())), pub.to_der()


def make_peer(name, **profile):
    if old:
        rid = KoiNetNode.generate(name)
        return rid, NodeProfile(**profile)
    rid, key = keyed(name)
    return rid, NodeProfile(public_key=key, **profile)


def edge(source, target, status, types, kind=EdgeType.WEBHOOK):
    if old:
        rid = KoiNetEdge.generate(source, target)
    else:
        from rid_lib.ext.utils import sha256_hash
        rid = KoiNetEdge(sha256_hash(str(source) + str(target)))
    return Bundle.generate(rid, EdgeProfile(
        source=source, target=target, edge_type=kind, status=status, rid_types=types).model_dump())


coordinator, coordinator_profile = make_peer(
    "coordinator", node_type=NodeType.FULL, base_url=CONTACT,
    provides=NodeProvides(event=[KoiNetNode, KoiNetEdge], state=[KoiNetNode, KoiNetEdge]))
desk, desk_profile = make_peer("desk", node_type=NodeType.PARTIAL)

if os.environ.get("PARTIAL"):
    PROFILE = dict(node_type=NodeType.PARTIAL, provides=NodeProvides(event=[NOTE]))
else:
    PROFILE = dict(node_type=NodeType.FULL, provides=NodeProvides(event=[NOTE], state=[NOTE]))
partial = PROFILE["node_type"] == NodeType.PARTIAL


def fill(write, self_rid, self_profile):
    write(Bundle.generate(self_rid, self_profile.model_dump()))
    write(Bundle.generate(coordinator, coordinator_profile.model_dump()))
    write(Bundle.generate(desk, desk_profile.model_dump()))
    write(edge(self_rid, desk, EdgeStatus.APPROVED, [NOTE], EdgeType.POLL))
    write(edge(coordinator, self_rid, EdgeStatus.APPROVED, [KoiNetNode], EdgeType.POLL if partial else EdgeType.WEBHOOK))
    for rid, contents in CONTENTS.items():
        write(Bundle.generate(RID.from_string(rid), contents))


def events(rid):
    note = Bundle.generate(RID.from_string("orn:example.note:plain"), CONTENTS["orn:example.note:plain"])
    return [Event.from_bundle(EventType.NEW, note), Event.from_rid(EventType.FORGET, RID.from_string("orn:example.note:gone"))]


if release == "1.0.0b5":
    from koi_net import NodeInterface
    node = NodeInterface(name="notes", profile=NodeProfile(base_url="http://127.0.0.1:8001/koi-net", **PROFILE))
    fill(node.cache.write, node.identity.rid, node.identity.profile)
    for event in events(desk):
        node.network.push_event_to(event, desk)
    node.finalize()
elif release in ("1.0.0", "1.1.0"):
    from koi_net.config import KoiNetConfig, NodeConfig, ServerConfig
    contact = CONTACT
    if release == "1.1.0":
        from koi_net.config import NodeContact
        contact = NodeContact(rid=coordinator, url=CONTACT)
    extra = dict(cache_directory_path=".notes_rid_cache", event_queues_path="notes_event_queues.json") if release == "1.0.0" else {}
    config = NodeConfig(server=ServerConfig(port=8001), koi_net=KoiNetConfig(
        node_name="notes", node_profile=NodeProfile(**PROFILE), first_contact=contact, **extra))
    config.save_to_yaml()
    config = NodeConfig.load_from_yaml("config.yaml")
    from koi_net import NodeInterface
    node = NodeInterface(config=config)
    fill(node.cache.write, node.identity.rid, node.identity.profile)
    network = node.network if release == "1.0.0" else node.event_queue
    for event in events(desk):
        network.push_event_to(event, desk)
    network._save_event_queues()
else:
    if release.startswith("1.2"):
        from koi_net.config.full_node import FullNodeConfig, KoiNetConfig, NodeProfile as Profile, ServerConfig
        from koi_net.config.partial_node import PartialNodeConfig, KoiNetConfig as PartialKoiNetConfig, NodeProfile as PartialProfile
        from koi_net.config.core import NodeContact
        config = FullNodeConfig(server=ServerConfig(port=8001), koi_net=KoiNetConfig(
            node_name="notes", node_profile=Profile(provides=PROFILE["provides"]),
            rid_types_of_interest=[KoiNetNode, RIDType.from_string("orn:example.report")],
            first_contact=NodeContact(rid=coordinator, url=CONTACT)))
        from ruamel.yaml import YAML
        with open("config.yaml", "w") as f:
            YAML().dump(config.model_dump(mode="json"), f)
        from koi_net.cache import Cache
        cache = Cache(config)
        fill(cache.write, config.koi_net.node_rid, config.koi_net.node_profile)
    else:
        from koi_net.config import FullNodeConfig, FullNodeProfile, KoiNetConfig, NodeContact, PartialNodeConfig, PartialNodeProfile, ServerConfig
        from koi_net.core import FullNode, PartialNode

        KOI = dict(node_name="notes", rid_types_of_interest=[KoiNetNode, RIDType.from_string("orn:example.report")],
                   first_contact=NodeContact(rid=coordinator, url=CONTACT))

        if partial:
            class Config(PartialNodeConfig):
                koi_net: KoiNetConfig = KoiNetConfig(node_profile=PartialNodeProfile(provides=PROFILE["provides"]), **KOI)

            class Node(PartialNode):
                config_schema = Config
        else:
            class Config(FullNodeConfig):
                server: ServerConfig = ServerConfig(port=8001)
                koi_net: KoiNetConfig = KoiNetConfig(node_profile=FullNodeProfile(provides=PROFILE["provides"]), **KOI)

            class Node(FullNode):
                config_schema = Config

        node = Node(root_dir=Path("."))
        node.config.save_to_yaml()
        fill(node.cache.write, node.identity.rid, node.identity.profile)

print(release, sorted(os.listdir(".")), json.dumps(len(CONTENTS)))
