"""A full node of koi-net 2.x, assembled and run as the library does it by itself.

As shipped, the library logs to the console and to a file. Quiet, no record is
made at all.
"""

import json
import logging
import sys
from pathlib import Path

import structlog

asked = json.loads(sys.argv[1])

from koi_net.infra import LogSystem

if asked["quiet"]:
    LogSystem(use_file_handler=False, use_console_handler=False)
    logging.disable(logging.CRITICAL)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=True)

from koi_net.config import FullNodeConfig, FullNodeProfile, KoiNetConfig, NodeProvides, ServerConfig
from koi_net.core import FullNode
from rid_lib.core import RIDType

types = [RIDType.from_string(t) for t in asked["provides"]]


class Config(FullNodeConfig):
    server: ServerConfig = ServerConfig(port=asked["port"])
    koi_net: KoiNetConfig = KoiNetConfig(
        node_name=asked["name"], node_profile=FullNodeProfile(provides=NodeProvides(event=types, state=types)))


class Node(FullNode):
    config_schema = Config


node = Node(root_dir=Path.cwd())
Path("rid").write_text(str(node.identity.rid))
node.run()
