"""A node of the Python library koi-net 2.1, outside the cluster: a full node that provides readings.

    python3 gauge.py URL RID ADDRESS

URL and RID are its first contact's, ADDRESS is where others reach this machine.
"""

import sys
import threading
import time
from pathlib import Path

from koi_net.config import (
    FullNodeConfig, FullNodeProfile, KoiNetConfig, NodeContact, NodeProvides, ServerConfig,
)
from koi_net.core import FullNode
from rid_lib import RID
from rid_lib.core import RIDType
from rid_lib.ext import Bundle

url, rid, address = sys.argv[1:]
reading = RIDType.from_string("orn:example.reading")


class Config(FullNodeConfig):
    server: ServerConfig = ServerConfig(host="0.0.0.0", port=8005)
    koi_net: KoiNetConfig = KoiNetConfig(
        node_name="gauge",
        node_profile=FullNodeProfile(
            base_url=f"http://{address}:8005/koi-net",
            provides=NodeProvides(event=[reading], state=[reading])),
        first_contact=NodeContact(rid=rid, url=url))


class Gauge(FullNode):
    config_schema = Config


def measure(node):
    for n in range(1, 1000):
        time.sleep(2)
        node.kobj_queue.push(bundle=Bundle.generate(RID.from_string(f"{reading}:{n}"), {"celsius": 20 + n % 5}))


node = Gauge(root_dir=Path.cwd())
threading.Thread(target=measure, args=(node,), daemon=True).start()
node.run()
