"""A TCP proxy that misbehaves on demand: what lies between a client and a broker, and what can go wrong there."""

import contextlib
import select
import socket
import struct
import threading
import time
from collections import deque
from types import TracebackType
from typing import Self

_CHUNK = 65_536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: the peer sees a reset


class TcpProxy:
    """Forwards connections from a port of loopback to another, until told to do worse.

    `port` is where clients connect. All levers act on connections that are open and on those that come.
    """

    def __init__(self, target_port: int) -> None:
        self.delay_seconds = 0.0  # how long each piece of data waits, in both directions
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._refusing = False
        self._silent = False
        self._swallowing = False
        self._cut_after: int | None = None
        self._closed = False
        self.accepted = 0  # connections so far
        threading.Thread(target=self._accept, name="proxy-accept", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def drop(self) -> int:
        """Break all open connections with a reset; new ones are taken. Return how many were broken."""
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            link.reset()
        return len(links)

    def refuse(self) -> None:
        """Break all open connections and each new one at once, as if nobody were there."""
        self._refusing = True
        self.drop()

    def delay(self, seconds: float) -> None:
        """Let each piece of data arrive this much later, in both directions."""
        self.delay_seconds = seconds

    def half_open(self) -> None:
        """Forward nothing more, in either direction, and keep the connections open: a cable pulled."""
        self._silent = True

    def swallow(self) -> None:
        """Forward what clients send and drop what they are answered, and keep the connections open."""
        self._swallowing = True

    def cut_after(self, count: int) -> None:
        """Break the connection once `count` more bytes have gone from client to server: within a frame, say.

        It happens once, to the connection that sends the last of these bytes; what comes after is forwarded.
        """
        with self._lock:
            self._cut_after = count

    def behave(self) -> None:
        """Undo all of the above. Connections that were silent or unanswered are broken, as what they missed is lost."""
        self._refusing = False
        self.delay_seconds = 0.0
        with self._lock:
            self._cut_after = None
        if self._silent or self._swallowing:
            self._silent = self._swallowing = False
            self.drop()

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        with self._lock:
            return len(self._links)

    def close(self) -> None:
        """Break everything and stop listening. May be called twice."""
        self._closed = True
        # Closing alone would leave the thread asleep in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()

    # --- inside ---

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                _reset(client)
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port), timeout=5)
            except OSError:
                _reset(client)
                continue
            link = _Link(self, client, server)
            with self._lock:
                self.accepted += 1
                self._links.add(link)
            link.start()

    def _forget(self, link: "_Link") -> None:
        with self._lock:
            self._links.discard(link)

    def _allowance(self, size: int) -> tuple[int, bool]:
        """Return how many of `size` bytes from a client may pass, and whether the connection breaks then."""
        with self._lock:
            if self._cut_after is None:
                return size, False
            if size < self._cut_after:
                self._cut_after -= size
                return size, False
            allowed, self._cut_after = self._cut_after, None
            return allowed, True


class _Link:
    """One connection through the proxy: two sockets, two threads."""

    def __init__(self, proxy: TcpProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._lock = threading.Lock()
        self._ended = False
        for side in (client, server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            side.settimeout(None)

    def start(self) -> None:
        for source, sink, from_client in ((self._client, self._server, True), (self._server, self._client, False)):
            threading.Thread(
                target=self._pump, args=(source, sink, from_client), name="proxy-pump", daemon=True
            ).start()

    def reset(self) -> None:
        """End both sides by a reset."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
        self._proxy._forget(self)
        for side in (self._client, self._server):
            _reset(side)

    def _pump(self, source: socket.socket, sink: socket.socket, from_client: bool) -> None:
        waiting: deque[tuple[float, bytes]] = deque()  # when to forward, what
        try:
            while True:
                pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.05
                readable, _, _ = select.select([source], [], [], pause)
                if self._ended:
                    return
                if readable and not self._proxy._silent:
                    data = source.recv(_CHUNK)
                    if not data:
                        break
                    if self._proxy._swallowing and not from_client:
                        continue
                    waiting.append((time.monotonic() + self._proxy.delay_seconds, data))
                elif readable:
                    time.sleep(0.01)  # silent: what arrives piles up unread, as behind a pulled cable
                while waiting and waiting[0][0] <= time.monotonic() and not self._proxy._silent:
                    if not self._forward(sink, waiting.popleft()[1], from_client):
                        return
            for _, data in waiting:
                if not self._forward(sink, data, from_client):
                    return
            # One side said goodbye; the other may still have something to say.
            sink.shutdown(socket.SHUT_WR)
            if from_client:
                return
        except (OSError, ValueError):  # ValueError: select on a socket that reset() has closed
            self.reset()
            return
        self.reset()

    def _forward(self, sink: socket.socket, data: bytes, from_client: bool) -> bool:
        """Send one piece on; return False if the link was cut by it."""
        allowed, cut = self._proxy._allowance(len(data)) if from_client else (len(data), False)
        sink.sendall(data[:allowed])
        if cut:
            self.reset()
        return not cut


def _reset(side: socket.socket) -> None:
    with contextlib.suppress(OSError):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        side.shutdown(socket.SHUT_RD)  # wakes the thread that reads
    with contextlib.suppress(OSError):
        side.close()
