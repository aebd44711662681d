"""Tests of the clients in Python: the text that a program receives from a stream, and the error, if the client raises one."""

import json
import os
import subprocess
from itertools import islice
from pathlib import Path

import anthropic
import httpx
import httpx_sse
import openai
import pytest

OPTIONS = {"api_key": "none", "max_retries": 0}
QUESTION = {"messages": [{"role": "user", "content": "?"}], "model": "m"}


@pytest.fixture(scope="module")
def server():
    """Starts the server, yields its URL, and closes its input, which ends the server."""
    program = Path(os.environ["CARGO_TARGET_DIR"], "debug/clients")
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip()


def chat_completions(url):
    client = openai.OpenAI(base_url=url, **OPTIONS)
    for chunk in client.chat.completions.create(stream=True, **QUESTION):
        yield chunk.choices[0].delta.content


def responses(url):
    client = openai.OpenAI(base_url=url, **OPTIONS)
    for event in client.responses.create(model="m", input="?", stream=True):
        if event.type == "response.output_text.delta":
            yield event.delta


def messages(url):
    client = anthropic.Anthropic(base_url=url, **OPTIONS)
    with client.messages.stream(max_tokens=9, **QUESTION) as stream:
        yield from stream.text_stream
        yield f"({stream.get_final_message().stop_reason})"


OPENAI_ERROR = openai.APIError, "restart", {"message": "restart"}
ANTHROPIC_BODY = {"type": "error", "error": {"type": "overloaded_error", "message": "restart"}}
ANTHROPIC_ERROR = anthropic.APIStatusError, str(ANTHROPIC_BODY), ANTHROPIC_BODY
NO_JSON = json.JSONDecodeError, "Expecting value: line 1 column 1 (char 0)", None

# For each client: its function, the end of the text of a complete stream and of an incomplete one, the error after the close
# event of the protocol, and the error after the default close event.
CLIENTS = {
    "openai": (chat_completions, "", "", OPENAI_ERROR, NO_JSON),
    "openai_responses": (responses, "", "", OPENAI_ERROR, NO_JSON),
    "anthropic": (messages, "(end_turn)", "(None)", ANTHROPIC_ERROR, None),
}


@pytest.mark.parametrize("situation", ["complete", "silence", "shutdown", "truncated", "skipped", "unmarked", "default"])
@pytest.mark.parametrize("client", CLIENTS)
def test_protocol(server, client, situation):
    run, complete, incomplete, closed, by_default = CLIENTS[client]
    error = {"shutdown": closed, "truncated": closed, "default": by_default}.get(situation)
    if situation in ("complete", "silence"):
        expected = "one two" + complete
    else:
        expected = "one " + ("" if error else incomplete)

    text, seen = "", None
    try:
        for piece in run(f"{server}/{client}/{situation}"):
            text += piece
    except Exception as exception:
        seen = type(exception), str(exception), getattr(exception, "body", None)
    assert (text, seen) == (expected, error)


def feed(url):
    """Yields the data of each event and each reconnect, until the close event. `httpx-sse` does not reconnect on its own."""
    headers = {}
    with httpx.Client() as client:
        while True:
            with httpx_sse.connect_sse(client, "GET", url, headers=headers) as source:
                for event in source.iter_sse():
                    if event.event == "close":
                        yield "closed"
                        return
                    if event.data:
                        yield event.data
                    headers["Last-Event-ID"] = event.id
            yield "reconnects"


@pytest.mark.parametrize(
    ("situation", "expected"),
    {
        "complete": ["one", "two", "closed"],
        "silence": ["one", "two", "closed"],
        "shutdown": ["one", "closed"],
        "truncated": ["one", "reconnects", "two"],
    }.items(),
)
def test_httpx_sse(server, situation, expected):
    # A stream that has been resumed stays open.
    assert list(islice(feed(f"{server}/event_source/{situation}"), len(expected))) == expected


# For each client: its package, its function, and the body of its error for a response with this body.
RETRYING = {
    "openai": (openai, chat_completions, lambda body: body["error"]),
    "openai_responses": (openai, responses, lambda body: body["error"]),
    "anthropic": (anthropic, messages, lambda body: body),
}
FAILED = {"error": {"message": "the model has failed"}}
SILENT = {"error": {"message": "the model is silent"}}
OVERLOADED = {"error": {"message": "overloaded"}}
UNFRAMED = {"error": {"message": "no such model"}}
REJECTED = {"type": "error", "error": {"type": "invalid_request_error", "message": "no such model"}}


@pytest.mark.parametrize(
    ("situation", "status", "body", "requests"),
    [
        ("dead_once", None, None, 2),
        ("dead", 502, FAILED, 3),
        ("rejected", 502, REJECTED, 1),
        ("overloaded", 502, OVERLOADED, 3),
        ("unframed", 502, UNFRAMED, 3),
        ("silent", 504, SILENT, 3),
    ],
)
@pytest.mark.parametrize("client", RETRYING)
def test_dead_upstream(server, monkeypatch, client, situation, status, body, requests):
    """The upstream dies before its first event, and the gateway responds with a status."""
    monkeypatch.setitem(OPTIONS, "max_retries", 2)
    package, run, error_body = RETRYING[client]
    url = f"{server}/first_event/{client}/{situation}/gated"
    if status is None:
        assert "".join(run(url)).startswith("one two")
    else:
        with pytest.raises(package.InternalServerError) as raised:
            "".join(run(url))
        assert (raised.value.status_code, raised.value.body) == (status, error_body(body))
    assert httpx.get(f"{server}/requests/{client}/{situation}/gated").text == str(requests)


@pytest.mark.parametrize("client", RETRYING)
def test_dead_upstream_without_the_layer(server, monkeypatch, client):
    monkeypatch.setitem(OPTIONS, "max_retries", 2)
    package, run, _ = RETRYING[client]
    with pytest.raises(package.APIError, match="restart"):
        "".join(run(f"{server}/ungated/{client}/dead_once/ungated"))
    assert httpx.get(f"{server}/requests/{client}/dead_once/ungated").text == "1"
