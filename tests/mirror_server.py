"""A local web server that stands in for MNIST mirrors, reliable and unreliable ones."""

import contextlib
import http.server
import threading
from collections import Counter
from collections.abc import Iterator

WEB_PAGE = b"<!DOCTYPE html><title>Sign in to this network</title>"


class MirrorServer:
    """Serve files at ``/BEHAVIOUR/NAME``; ``requests`` counts the requests of each path.

    Behaviours: ``good``; ``wrong``, zeros instead of the content; ``page``, a web page instead of
    it; ``truncated``, which closes the connection early; ``long``, the content 100 times;
    ``missing``, error 404; ``slow``, 20 bytes per second; ``silent``, which never answers.
    If ``slow_name`` is given, the slow mirror has only this file.
    """

    def __init__(self, contents: dict[str, bytes], slow_name: str | None = None):
        self.contents = contents
        self.slow_name = slow_name
        self.requests: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.closing = threading.Event()
        mirror_server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(ConnectionError):  # the client may give up
                    mirror_server.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, behaviour: str) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/{behaviour}"

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        with self.lock:
            self.requests[handler.path] += 1
        _, behaviour, name = handler.path.split("/")
        if behaviour == "silent":
            self.closing.wait(30)
            return
        not_on_slow_mirror = behaviour == "slow" and self.slow_name not in (None, name)
        if behaviour == "missing" or not_on_slow_mirror:
            handler.send_error(404)
            return
        content = self.contents[name]
        special = {"wrong": bytes(len(content)), "page": WEB_PAGE, "long": content * 100}
        body = special.get(behaviour, content)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if behaviour == "slow":
            for byte in body:
                handler.wfile.write(bytes([byte]))
                if self.closing.wait(0.05):
                    return
        else:
            handler.wfile.write(body[: len(body) // 2] if behaviour == "truncated" else body)

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def serve(contents: dict[str, bytes], slow_name: str | None = None) -> Iterator[MirrorServer]:
    server = MirrorServer(contents, slow_name)
    try:
        yield server
    finally:
        server.close()
