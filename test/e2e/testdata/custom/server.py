"""A server as other people write them: it knows nothing of Portico."""

import argparse
import json
import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

READY = threading.Event()
PROBED = {"/live": [], "/ready": []}  # what was answered
FIRST = [int(status) for status in os.environ.get("FIRST", "").split()]  # what /live and then /ready answer at first


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    probes: ThreadingHTTPServer  # that which answers probes

    def log_message(self, format: str, *args: object) -> None:
        print(format % args, flush=True)

    def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        if status != 204:
            self.send_header("content-length", str(len(body)))
        if status == 302:
            self.send_header("location", "/v1/probed")
        self.send_header("x-portico-not-started", "busy")  # not believed
        self.end_headers()
        self.wfile.write(body)

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def serve(self) -> None:
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if path in PROBED and self.server is Handler.probes:
            status = 200 if path == "/live" or READY.is_set() else 503
            if len(PROBED[path]) < len(FIRST):
                status = FIRST[len(PROBED[path])]
            PROBED[path].append(status)
            self.answer(status, b"" if status == 204 else b"ok?", "text/plain")
        elif path == "/v1/probed":
            self.answer(200, json.dumps(PROBED).encode())
        elif path == "/v1/unready":
            READY.clear()
            self.answer(200, b"{}")
        elif path == "/v1/exit":
            os._exit(3)
        elif path == "/v1/fail":
            self.answer(503, b'{"why": "busy"}')
        elif path == "/v1/stream":
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.chunk(b"data: first\n\n")
            with socket.create_connection(("127.0.0.1", int(query)), 60) as gate:
                gate.recv(1)  # not before the test has seen the first part
            self.chunk(b"data: last\n\n")
            self.wfile.write(b"0\r\n\r\n")
        elif path == "/v1/old":
            self.wfile.write(b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nuntil the end")
            self.close_connection = True
        else:
            model = os.environ.get("AZUREML_MODEL_DIR", "")
            seen = {
                "method": self.command, "target": self.path, "body": body.decode(),
                "pid": os.getpid(), "uid": os.getuid(),
                "model": model, "files": sorted(os.listdir(model)) if model else [],
                "fields": sorted(name.lower() for name in self.headers), "secret": os.environ.get("SECRET", ""),
            }  # fmt: skip
            self.answer(200, json.dumps(seen).encode())

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--probes", type=int, help="another port, on which probes are answered")
    args = parser.parse_args()
    if str(args.port) != os.environ["PORT"]:
        sys.exit("the ports differ")
    READY.set()
    server = Handler.probes = ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    if args.probes:
        Handler.probes = ThreadingHTTPServer(("127.0.0.1", args.probes), Handler)
        threading.Thread(target=Handler.probes.serve_forever, daemon=True).start()
    print("the server listens", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
