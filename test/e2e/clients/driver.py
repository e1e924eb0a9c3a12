"""Drives python-socketio's sync client for a test in Go: commands and reports as in driver.js, but for ledgers."""

import json
import logging
import sys
import threading
from urllib.parse import urlencode

import engineio
import socketio


class EngineInOrder(engineio.Client):
    """Handles messages as they come. Its parent gives each a thread of its own, and they overtake each other."""

    def _trigger_event(self, event, *args, **kwargs):
        return super()._trigger_event(event, *args, **{**kwargs, "run_async": False})


class Client(socketio.Client):
    def _engineio_client_class(self):
        return EngineInOrder


# What goes wrong with a connection is said nowhere else. What goes through it is not said.
log = logging.StreamHandler()
log.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
log.addFilter(lambda record: not record.msg.startswith(("Received packet", "Sending packet", "Sending polling GET")))
logging.getLogger("engineio.client").addHandler(log)
logging.getLogger("engineio.client").setLevel(logging.INFO)

clients = {}  # by name: (client, namespace)
printing = threading.Lock()


def tell(report):
    with printing:
        print(json.dumps(report), flush=True)


def open_client(name, url, namespace="/", query=None, auth=None, transports=None, **_):
    client = Client(handle_sigint=False)
    clients[name] = client, namespace

    def connect():
        tell({"of": name, "what": "connect", "id": client.get_sid(namespace), "transport": client.transport()})

    def disconnect():
        tell({"of": name, "what": "disconnect"})

    def connect_error(error):
        if not isinstance(error, dict):  # of the transport
            error = {"message": str(error)}
        tell({"of": name, "what": "connect_error", "reason": error.get("message", str(error)),
              "data": error.get("data")})

    def event(event, *args):
        tell({"of": name, "what": "event", "event": event, "args": args})

    for handler in (connect, disconnect, connect_error):
        client.on(handler.__name__, handler, namespace=namespace)
    client.on("*", event, namespace=namespace)

    try:
        client.connect(url + "?" + urlencode(query or {}), auth=auth, transports=transports,
                       namespaces=[namespace], wait_timeout=20)
    except socketio.exceptions.ConnectionError:
        return  # connect_error has told
    # Unlike in JavaScript, the client upgrades before it connects, and tells nobody.
    if transports is None and client.transport() == "websocket":
        tell({"of": name, "what": "upgrade", "transport": client.transport()})


def emit(name, event, args, ask=False):
    client, namespace = clients[name]

    def answer(*args):
        tell({"of": name, "what": "answer", "args": args})

    client.emit(event, tuple(args), namespace=namespace, callback=answer if ask else None)


for line in sys.stdin:
    command = json.loads(line)
    do, name = command.pop("do"), command.pop("as")
    if do == "open":  # which waits for the server
        threading.Thread(target=open_client, args=(name,), kwargs=command, daemon=True).start()
    elif do == "emit":
        emit(name, **command)
    elif do == "binary":
        emit(name, args=[bytes([0, 1, 2])], **command)
