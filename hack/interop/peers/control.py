"""The control channel of a peer: one JSON object a line, requests on stdin,
answers on stdout.

A script of this directory builds a node of one API family, wraps it in a
Peer and calls run(). The node lives in the main thread, as its own README has
it; the channel is served by another one, so that a node that ends by itself
ends the process. Whatever a library prints goes to stderr, the peer's log.
"""

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback

from rid_lib import RID
from rid_lib.core import RIDType
from rid_lib.ext import Bundle
from rid_lib.types import KoiNetEdge, KoiNetNode

# Answers keep the real stdout; print() of anybody else must not get in there.
_answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
os.dup2(2, 1)


class Settings:
    """What the node is to be: the first argument, a JSON object."""

    def __init__(self, text):
        given = json.loads(text)
        self.name = given["name"]
        self.port = given.get("port", 0)
        self.full = given.get("full", False)
        self.coordinator = given.get("coordinator", False)
        self.contact_rid = given.get("first_contact_rid") or None
        self.contact_url = given.get("first_contact_url") or None
        self.event = [RIDType.from_string(t) for t in given.get("event") or []]
        self.state = [RIDType.from_string(t) for t in given.get("state") or []]
        self.interests = [RIDType.from_string(t) for t in given.get("interests") or []]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/koi-net" if self.full else None


def settings():
    return Settings(sys.argv[1])


class _Formatter(logging.Formatter):
    """One short line a record; structlog hands over a dict."""

    def format(self, record):
        if isinstance(record.msg, dict):
            record.msg, record.args = str(record.msg.get("event")), None
        return super().format(record)


def quiet(level=logging.INFO):
    """Sends all logging to stderr, before a library sets up its own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)


class Peer:
    """What the channel needs of a node, whatever its version."""

    def __init__(self, settings, rid, cache, handle, event, event_types, edge):
        self.settings = settings
        self.rid = rid
        self.cache = cache
        self.handle = handle  # (bundle=), (rid=, event_type=) or (event=, source=)
        self.event = event
        self.event_types = event_types
        self.edge = edge  # (source=, rid_types=): a bundle that proposes an edge to this node

    def whoami(self, _):
        return {"rid": str(self.rid), "url": self.settings.url or ""}

    def put(self, args):
        bundle = Bundle.generate(RID.from_string(args["rid"]), args["contents"])
        self.handle(bundle=bundle)
        return json.loads(bundle.manifest.model_dump_json())

    def forget(self, args):
        self.handle(rid=RID.from_string(args["rid"]), event_type=self.event_types.FORGET)

    def receive(self, args):
        self.handle(event=self.event.model_validate(args["event"]), source=RID.from_string(args["source"]))

    def propose(self, args):
        self.handle(bundle=self.edge(
            source=RID.from_string(args["source"]), rid_types=[RIDType.from_string(t) for t in args["rid_types"]]))

    def get(self, args):
        bundle = self._read(RID.from_string(args["rid"]))
        return bundle and json.loads(bundle.model_dump_json())

    def rids(self, _):
        return [str(r) for r in self.cache.list_rids()]

    def nodes(self, _):
        return [str(r) for r in self.cache.list_rids(rid_types=[KoiNetNode])]

    def edges(self, _):
        found = [self._read(r) for r in self.cache.list_rids(rid_types=[KoiNetEdge])]
        return [dict(b.contents, rid=str(b.manifest.rid)) for b in found if b]

    def _read(self, rid):
        # The cache is a directory of files that the node may be writing right now.
        for attempt in range(20):
            try:
                return self.cache.read(rid)
            except Exception:
                if attempt == 19:
                    raise
                time.sleep(0.01)


def _answer(**fields):
    _answers.write(json.dumps(fields, default=str) + "\n")


def _listening(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def _serve(peer):
    # A node that is asked before it has cached its own bundle fails in several releases.
    while not peer.cache.exists(peer.rid) or peer.settings.full and not _listening(peer.settings.port):
        time.sleep(0.02)
    _answer(id=0, result=peer.whoami(None))
    operations = {name: getattr(peer, name) for name in ("put", "forget", "receive", "propose", "get", "rids", "nodes", "edges")}
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "stop":
            os.kill(os.getpid(), signal.SIGINT)  # as a person at a terminal stops it
            continue
        try:
            _answer(id=request["id"], result=operations[request["op"]](request))
        except Exception as err:
            _answer(id=request["id"], error=f"{type(err).__name__}: {err}")
    os._exit(3)  # whoever ran us is gone


def run(peer, node):
    """Serves the channel and runs the node, a function, until it returns."""
    threading.Thread(target=_serve, args=(peer,), daemon=True).start()
    code = 0
    try:
        node()
    except KeyboardInterrupt:
        pass
    except BaseException:
        traceback.print_exc()
        code = 1
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join(10)  # some releases still send what is left
    sys.stderr.flush()
    os._exit(code)  # the channel's thread would hold up an orderly end
