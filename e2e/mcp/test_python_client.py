"""The official Python client, which speaks the revision 2026-07-28 and older ones, with the layer and without it."""

import re
import signal
from contextlib import asynccontextmanager

import anyio
import pytest
from mcp import Client
from mcp.client.subscriptions import SubscriptionLost
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from recording import LONG, Recorder, ends, server

CLOSE_EVENT = re.compile(rb"event: close\ndata:\nretry: ([0-9]+)\n\n\Z")
WITHOUT = "nothing"
A_WHILE = 3

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@asynccontextmanager
async def connected(process, mode="legacy"):
    """Connects a client. `legacy` has sessions; `auto` negotiates the newest revision, which has none."""
    recorder = Recorder()
    async with recorder.client() as http_client:
        async with Client(streamable_http_client(process.url, http_client=http_client), mode=mode) as client:
            yield client, recorder


async def count(client, to, at_first=lambda: None):
    """Calls the long tool, and calls `at_first` at the first progress."""
    progress = []

    async def report(number, total, _message):
        progress.append(number)
        assert total == to
        if len(progress) == 1:
            at_first()

    result = await client.call_tool("count", {"to": to}, progress_callback=report)
    return text(result), progress


def text(result):
    [content] = result.content
    return content.text


def without_close_event(body):
    """Returns the body without its close event, which is required."""
    closed = CLOSE_EVENT.search(body)
    assert closed, bytes(body)
    assert 500 <= int(closed[1]) <= 2000
    return body[: closed.start()]


async def at_once(scenario, *variants):
    results = {}

    async def run(variant):
        results[variant] = await scenario(*variant)

    async with anyio.create_task_group() as group:
        for variant in variants:
            group.start_soon(run, variant)
    return [results[variant] for variant in variants]


async def shut_down_in_mid_call(mode, ended_by=None):
    with server(ended_by) as process:
        async with connected(process, mode) as (client, recorder):
            version = client.protocol_version
            tools = [tool.name for tool in (await client.list_tools()).tools]
            counted = await count(client, 4, at_first=lambda: process.send_signal(signal.SIGINT))
            exit_code = await ends(process, within=A_WHILE)
            posts = [bytes(exchange.body) for exchange in recorder.of("POST")]
            gets = [(bytes(exchange.body), exchange.end) for exchange in recorder.of("GET")]
        gone_with_client = await ends(process)
    return (version, tools, counted), posts, gets, exit_code, gone_with_client


async def test_shutdown_waits_for_the_call_and_not_for_the_subscription():
    layer, without = await at_once(shut_down_in_mid_call, ("legacy",), ("legacy", WITHOUT))

    results, posts, gets, exit_code, _ = layer
    assert results == ("2025-11-25", ["count"], ("counted to 4", [1, 2, 3, 4]))
    assert exit_code == 0
    assert (results, posts) == without[:2]
    [(subscription, end)] = gets
    assert end == "clean"
    assert without[2] == [(without_close_event(subscription), "open")]
    assert without[3:] == (None, 0), "the server waits until its client has left"


async def test_protocol_without_sessions_is_the_same_with_the_layer():
    layer, without = await at_once(shut_down_in_mid_call, ("auto",), ("auto", WITHOUT))

    assert layer[0] == ("2026-07-28", ["count"], ("counted to 4", [1, 2, 3, 4]))
    assert layer[2:] == ([], 0, 0)
    assert layer == without


async def shut_down_in_mid_subscription(ended_by=None, to=4):
    """Returns the end of the subscription, the result or error of the call, the exit code, and the exchanges of both."""
    with server(ended_by) as process:
        async with connected(process, "auto") as (client, recorder), anyio.create_task_group() as group:
            # The client needs the tool to check a result.
            await client.list_tools()
            end = None

            async def subscribe(*, task_status):
                nonlocal end
                async with client.listen(tools_list_changed=True) as subscription:
                    assert subscription.honored.tools_list_changed
                    task_status.started()
                    try:
                        end = [event async for event in subscription]
                    except SubscriptionLost:
                        end = SubscriptionLost

            await group.start(subscribe)
            try:
                counted = await count(client, to, at_first=lambda: process.send_signal(signal.SIGTERM))
            except MCPError as error:
                counted = str(error)
            exit_code = await ends(process, within=A_WHILE)
            listening, call = recorder.exchanges[-2:]
            if ended_by == WITHOUT:
                process.kill()
    assert not recorder.of("GET")
    return end, counted, exit_code, listening, call


async def test_shutdown_ends_a_subscription_gracefully_and_waits_for_the_response():
    layer, without = await at_once(shut_down_in_mid_subscription, (), (WITHOUT,))

    assert layer[:3] == ([], ("counted to 4", [1, 2, 3, 4]), 0)
    assert without[:3] == (SubscriptionLost, layer[1], None), "the server waits until its client has left"
    assert layer[4] == without[4]
    results = [variant[3].body.count(b'"resultType":"complete"') for variant in (layer, without)]
    assert results == [1, 0]
    assert layer[3].body.count(b"data:") == without[3].body.count(b"data:") + 1


async def test_token_of_rmcp_ends_a_subscription_abruptly_and_loses_the_response():
    end, counted, exit_code, *_ = await shut_down_in_mid_subscription("token")

    assert (end, counted, exit_code) == (SubscriptionLost, "SSE stream ended without a response", 0)


async def test_token_of_rmcp_loses_the_result():
    with server("token") as process:
        async with connected(process) as (client, recorder):
            with pytest.raises(MCPError, match="reconnection attempts were exhausted"):
                await count(client, 4, at_first=lambda: process.send_signal(signal.SIGINT))
            assert await ends(process) == 0
            [subscription] = recorder.of("GET")
            assert b"close" not in subscription.body


async def reach_the_maximum_age(ended_by=None):
    with server(ended_by, max_age_ms=1000) as process:
        async with connected(process) as (client, recorder):
            counted = await count(client, 6)
            if ended_by is None:
                with anyio.fail_after(LONG):
                    while len(recorder.of("GET")) < 2:
                        await anyio.sleep(0.01)
            gets = [(bytes(exchange.body), exchange.end, exchange.last_event_id) for exchange in recorder.of("GET")]
            return counted, [bytes(exchange.body) for exchange in recorder.of("POST")], gets


async def test_subscription_of_the_maximum_age_is_resumed_and_a_response_has_none():
    layer, without = await at_once(reach_the_maximum_age, (), (WITHOUT,))

    assert layer[0] == ("counted to 6", list(range(1, 7)))
    assert layer[:2] == without[:2]
    closed, resumed = layer[2][:2]
    assert (closed[1], resumed[2]) == ("clean", "0")
    assert without[2] == [(without_close_event(closed[0]), "open", None)]


async def outlast_the_grace(ended_by=None):
    with server(ended_by) as process:
        # Without the layer the server would not end, so the test kills it.
        stop = signal.SIGKILL if ended_by else signal.SIGINT
        async with connected(process) as (client, recorder):
            with pytest.raises(MCPError) as error:
                await count(client, 40, at_first=lambda: process.send_signal(stop))
            await ends(process)
    [subscription] = recorder.of("GET")
    return str(error.value), subscription, recorder.of("POST")[-1]


async def outlast_the_grace_in(revision, ended_by=None):
    if revision == "newest":
        return await shut_down_in_mid_subscription(to=40)
    return await outlast_the_grace(ended_by)


async def test_response_that_outlasts_the_grace_fails_and_is_not_cut():
    variants = ("older",), ("older", WITHOUT), ("newest",)
    layer, killed, newest = await at_once(outlast_the_grace_in, *variants)

    assert layer[0] == killed[0] == "SSE stream ended and reconnection attempts were exhausted"
    assert [exchange.end for exchange in layer[1:]] == ["clean", "clean"]
    assert [exchange.end for exchange in killed[1:]] == ["cut", "cut"]
    for exchange in layer[1:]:
        without_close_event(exchange.body)

    end, counted, exit_code, _, call = newest
    assert (end, counted, exit_code) == ([], "SSE stream ended without a response", 0)
    assert call.end == "clean"
    without_close_event(call.body)


async def restart(ended_by=None):
    with server(ended_by) as process:
        async with connected(process) as (client, _):
            await client.call_tool("count", {"to": 1})
            port = process.url.removesuffix("/mcp").rpartition(":")[2]
            process.send_signal(signal.SIGKILL if ended_by else signal.SIGINT)
            assert await ends(process) is not None
            with server(ended_by, port=port) as successor:
                with pytest.raises(MCPError) as error:
                    await client.call_tool("count", {"to": 1})
                async with connected(successor) as (new_client, _):
                    return str(error.value), text(await new_client.call_tool("count", {"to": 1}))


async def test_session_ends_with_its_process():
    layer, without = await at_once(restart, (), (WITHOUT,))

    assert layer == without == ("Session terminated", "counted to 1")
