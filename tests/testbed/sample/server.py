"""Answer HTTP on port 8080; when told to end, take a moment for it and say so."""

import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec

FAREWELL_S = 3


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = msgspec.json.encode({"hello": self.client_address[0]})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def end(*_: object) -> None:
    print("told to end")
    time.sleep(FAREWELL_S)
    print("ended in good order")
    sys.exit(0)


signal.signal(signal.SIGTERM, end)
server = ThreadingHTTPServer(("", 8080), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("serving")
while True:
    signal.pause()
