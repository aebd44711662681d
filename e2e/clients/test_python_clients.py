"""Tests of the clients in Python: the text that a program receives from a stream, and the error, if the client raises one."""

import json
import os
import subprocess
from itertools import islice
from pathlib import Path

import anthropic
import httpx
import httpx2
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


def responses_to_end_mark(url):
    client = openai.OpenAI(base_url=url, **OPTIONS)
    with client.responses.create(model="m", input="?", stream=True) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                yield event.delta
            if event.type == "response.completed":
                return


def messages(url):
    client = anthropic.Anthropic(base_url=url, **OPTIONS)
    with client.messages.stream(max_tokens=9, **QUESTION) as stream:
        yield from stream.text_stream
        yield f"({stream.get_final_message().stop_reason})"


def messages_to_end_mark(url):
    client = anthropic.Anthropic(base_url=url, **OPTIONS)
    with client.messages.create(max_tokens=9, stream=True, **QUESTION) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                yield event.delta.text
            if event.type == "message_stop":
                yield "(end_turn)"
                return


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
    error = {"shutdown": closed, "truncated": closed, "unmarked": closed, "default": by_default}.get(situation)
    if situation in ("complete", "silence"):
        expected = "one two" + complete
    else:
        expected = "one " + ("" if error else incomplete)

    assert read(run, f"{server}/{client}/{situation}") == (expected, error)


def read(run, url):
    """Returns the text of the stream at this URL, and the error."""
    text, error = "", None
    try:
        for piece in run(url):
            text += piece
    except Exception as exception:
        error = type(exception), str(exception), getattr(exception, "body", None)
    return text, error


# Functions that leave at the end mark. The client for chat completions leaves on its own.
LEAVE = {"openai": chat_completions, "openai_responses": responses_to_end_mark, "anthropic": messages_to_end_mark}

COMPLETE, LOST = "one two", "one "


def end_mark_results(client, variant):
    """Returns, for each situation, the text, the error, and the ending in the report of the server."""
    _, complete, incomplete, closed, _ = CLIENTS[client]
    whole = COMPLETE + complete, None, "completed"
    results = dict.fromkeys(END_MARK_SITUATIONS, whole)
    results["shutdown"] = LOST, closed, "cancelled"
    if variant == "with":
        return results | {"unmarked": (LOST, closed, "truncated")}

    results |= {
        "unfinished_mark": (COMPLETE, closed, "truncated"),
        "leave": (COMPLETE + complete, None, "dropped"),
        "unmarked": (LOST + incomplete, None, "completed"),
    }
    if client == "openai":
        # The client itself ends at its end mark, and leaves.
        after_mark = {"failed_after_mark": (None, "failed"), "shutdown_after_mark": (None, "cancelled"), "hang": (None, "dropped")}
    else:
        failed = CONNECTION_ERRORS[client]
        after_mark = {"failed_after_mark": (failed, "failed"), "shutdown_after_mark": (closed, "cancelled"), "hang": (closed, "idle")}
    return results | {situation: (COMPLETE, *result) for situation, result in after_mark.items()}


END_MARK_SITUATIONS = [
    "complete",
    "unfinished_mark",
    "failed_after_mark",
    "shutdown_after_mark",
    "hang",
    "leave",
    "unmarked",
    "shutdown",
]

CUT = "peer closed connection without sending complete message body (incomplete chunked read)"
CONNECTION_ERRORS = {
    "openai_responses": (openai.APIConnectionError, "Connection error.", None),
    # The client does not wrap this error of its HTTP library.
    "anthropic": (httpx2.RemoteProtocolError, CUT, None),
}


@pytest.mark.parametrize("situation", END_MARK_SITUATIONS)
@pytest.mark.parametrize("variant", ["with", "without"])
@pytest.mark.parametrize("client", LEAVE)
def test_end_mark(server, client, variant, situation):
    path = f"{client}/{situation}" if variant == "with" else f"without_end_marks/{client}/{situation}"
    run = LEAVE[client] if situation == "leave" else CLIENTS[client][0]
    text, error = read(run, f"{server}/{path}")
    ending = httpx.get(f"{server}/endings/{path}", timeout=30).text
    assert (text, error, ending) == end_mark_results(client, variant)[situation]


@pytest.mark.parametrize("client", CLIENTS)
def test_error_of_the_upstream(server, client):
    """The close event follows the error, but the client reads no further."""
    run, *_, closed, _ = CLIENTS[client]
    text, error = read(run, f"{server}/{client}/upstream_error")
    assert (text, error[0]) == ("one ", closed[0])
    assert "overloaded" in error[1]
    assert "restart" not in error[1]


# The error object is not an event. Without the layer, the response looks complete and empty.
@pytest.mark.parametrize("client", CLIENTS)
def test_unframed_error(server, client):
    run, *_, closed, _ = CLIENTS[client]
    assert read(run, f"{server}/{client}/unframed") == ("", closed)
    text, error = read(run, f"{server}/{client}/skipped_unframed")
    # `text_stream` of anthropic is empty, and `get_final_message` asserts that there was a message.
    assert (text, error and error[0]) == ("", AssertionError if client == "anthropic" else None)


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
