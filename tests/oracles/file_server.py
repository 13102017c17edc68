"""A web server on the loopback interface that serves bytes, with the faults that real ones have.

with FileServer() as server:
    server.files["a.zip"] = Served(content=b"...", drops=[1000])    # the first answer breaks off after 1,000 bytes
    url = server.url("a.zip")
"""

import contextlib
import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

PIECE = 64 * 1024


@dataclass(kw_only=True)
class Served:
    """A file and how it is served; each of the lists is used up, one item an answer.

    `drops`: bytes after which the connection breaks. `statuses`: errors answered in place of the file. `ranges`: whether
    a part can be asked for. `etag`: "strong", "weak", "date" or "". `heeds_if_range`: whether a changed file is noticed.
    `length`: whether its size is told. `stalls`: whether the server falls silent, connection open, where it drops.
    `redirect`: another name to look under.
    """

    content: bytes = b""
    drops: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ranges: bool = True
    etag: str = "strong"
    heeds_if_range: bool = True
    length: bool = True
    stalls: bool = False
    redirect: str = ""

    def version(self) -> dict[str, str]:
        """The header that names this version of the file."""
        tag = f'"{hashlib.sha256(self.content).hexdigest()[:16]}"'
        day = int(hashlib.sha256(self.content).hexdigest(), 16) % 28 + 1
        headers = {
            "strong": {"ETag": tag},
            "weak": {"ETag": f"W/{tag}"},
            "date": {"Last-Modified": f"Fri, {day:02} Jan 2021 00:00:00 GMT"},
        }
        return headers.get(self.etag, {})


class FileServer:
    """Serves `files` by name on a free port; `requests` lists what was asked: (name, Range header or "")."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, str]] = []
        self.over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def url(self, name: str) -> str:
        """Address of a file."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/{name}"

    def ranges(self) -> list[str]:
        """The parts that were asked for, "" where the whole file was."""
        return [wanted for _, wanted in self.requests]


def _handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    """The class that answers the requests of one server."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            name, wanted = self.path.lstrip("/"), self.headers.get("Range", "")
            server.requests.append((name, wanted))
            served = server.files.get(name)
            if served is None:
                self.send_error(404)
            elif served.redirect:
                self._answer(302, {"Location": server.url(served.redirect), "Content-Length": "0"})
            elif served.statuses:
                self.send_error(served.statuses.pop(0))
            else:
                self._serve(served, wanted)

        def _answer(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()

        def _serve(self, served: Served, wanted: str) -> None:
            version, total = served.version(), len(served.content)
            asked_for = self.headers.get("If-Range", "")
            unchanged = not served.heeds_if_range or not asked_for or asked_for in version.values()
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and served.ranges and unchanged else 0
            if start and start >= total:
                self._answer(416, {"Content-Range": f"bytes */{total}", "Content-Length": "0"})
                return
            headers = {"Content-Length": str(total - start)} if served.length else {}
            if start:
                headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
            self._answer(206 if start else 200, version | headers)
            self._send(served.content[start:], served)

        def _send(self, body: bytes, served: Served) -> None:
            dropped = served.drops.pop(0) if served.drops else None
            body = body[:dropped]
            with contextlib.suppress(ConnectionError):  # whoever asked has hung up
                for first in range(0, len(body), PIECE):
                    self.wfile.write(body[first : first + PIECE])
            if dropped is not None and served.stalls:
                server.over.wait(20)
            self.close_connection = True

    return Handler
