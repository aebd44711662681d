"""Serves one event stream of sse-starlette on a free port, for `e2e/run compare`. The argument names the situation."""

import sys

import anyio
import uvicorn
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.routing import Route

EVENT = {"data": "hello"}


async def idle():
    yield EVENT
    await anyio.sleep_forever()


async def empty():
    for event in ():
        yield event


async def failed():
    yield EVENT
    yield EVENT
    raise OSError("the upstream has failed")


async def truncated():
    # A handler that decodes its upstream has whole events only.
    yield EVENT


async def unread():
    while True:
        yield {"data": "x" * (1 << 20)}


async def respond(request):
    return EventSourceResponse(globals()[sys.argv[1]]())


uvicorn.run(Starlette(routes=[Route("/", respond)]), port=0)
