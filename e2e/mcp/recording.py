"""The process of the example, and an HTTP client that records its exchanges."""

import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
import httpx2
from mcp.shared._httpx_utils import create_mcp_http_client

LONG = 30


@contextmanager
def server(ended_by=None, port=0, max_age_ms=None):
    environment = {**os.environ, "PORT": str(port)}
    if max_age_ms is not None:
        environment["MAX_AGE_MS"] = str(max_age_ms)
    if ended_by is not None:
        environment["ENDED_BY"] = ended_by
    process = subprocess.Popen(os.environ["MCP_SERVER"], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        process.url = process.stdout.readline().split()[0] + "/mcp"
        yield process
    finally:
        process.kill()
        process.wait()


async def ends(process, within=LONG):
    """Returns the exit code, or None if the process has not ended within this time."""
    try:
        return await anyio.to_thread.run_sync(lambda: process.wait(timeout=within))
    except subprocess.TimeoutExpired:
        return None


@dataclass
class Exchange:
    """A request and its response. `end` is `open`, `clean` or `cut`."""

    method: str
    last_event_id: str | None
    body: bytearray = field(default_factory=bytearray)
    end: str = "open"


class Recorder(httpx2.AsyncHTTPTransport):
    def __init__(self):
        super().__init__()
        self.exchanges = []

    async def handle_async_request(self, request):
        response = await super().handle_async_request(request)
        exchange = Exchange(request.method, request.headers.get("last-event-id"))
        self.exchanges.append(exchange)
        response.stream = RecordedStream(response.stream, exchange)
        return response

    def client(self):
        """Returns a client with the timeouts of the official client."""
        return httpx2.AsyncClient(transport=self, timeout=create_mcp_http_client().timeout)

    def of(self, method):
        return [exchange for exchange in self.exchanges if exchange.method == method]


class RecordedStream(httpx2.AsyncByteStream):
    def __init__(self, stream, exchange):
        self.stream = stream
        self.exchange = exchange

    async def __aiter__(self):
        try:
            async for chunk in self.stream:
                self.exchange.body += chunk
                yield chunk
            self.exchange.end = "clean"
        except httpx2.TransportError:
            self.exchange.end = "cut"
            raise

    async def aclose(self):
        await self.stream.aclose()
