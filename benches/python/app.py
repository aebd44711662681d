"""Endless numbered events, like those of the axum server of `stacks`: /PATH?interval_ms=N.

With an interval of 0, each event is sent after one yield to the other streams.
"""

import asyncio
import itertools

import anyio
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route


def interval(request):
    return int(request.query_params["interval_ms"]) / 1000


async def events(request):
    """sse-starlette with its defaults. At a shutdown it cancels the generator."""
    return EventSourceResponse(numbered(interval(request)))


async def farewell(request):
    """A hand-written close event, with the shutdown event of sse-starlette."""
    shutdown = anyio.Event()
    return EventSourceResponse(
        closed(interval(request), shutdown), shutdown_event=shutdown, shutdown_grace_period=2
    )


async def plain(request):
    """Starlette alone, which has no support for event streams."""
    return StreamingResponse(encoded(interval(request)), media_type="text/event-stream")


async def numbered(seconds):
    for number in itertools.count(1):
        yield {"id": str(number), "data": f"event {number}"}
        await asyncio.sleep(seconds)


async def closed(seconds, shutdown):
    for number in itertools.count(1):
        yield {"id": str(number), "data": f"event {number}"}
        with anyio.move_on_after(seconds):
            await shutdown.wait()
        if shutdown.is_set():
            break
    yield {"event": "close", "data": ""}


async def encoded(seconds):
    async for event in numbered(seconds):
        yield f"id: {event['id']}\ndata: {event['data']}\n\n"


app = Starlette(routes=[Route(f"/{page.__name__}", page) for page in (events, farewell, plain)])
