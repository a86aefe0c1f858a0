import asyncio
import json
import socket
from typing import Any

import ollama
import pytest
from fault_kinds import KINDS, RAW, REPLIES
from ollama_front import DIGEST, OllamaFront
from pydantic import BaseModel, Field
from stub_server import StubServer

import datafast_nb as dfn
from datafast_nb.errors import LLMError
from datafast_nb.models import tags
from datafast_nb.models.base import Message, Request, Response
from datafast_nb.models.ollama import OllamaModel
from datafast_nb.models.ollama_chat import parse_ollama, server_address
from datafast_nb.models.wire import WireReply, encode_json
from datafast_nb.options import options

OTHER = "f" * 64


def listed(**digests: str) -> dict[str, Any]:
    entries = [
        {
            "name": name.replace("_", "."),
            "model": name.replace("_", "."),
            "size": 2_019_393_189,
            "digest": digest,
            "modified_at": "2026-11-20T10:00:00Z",
            "details": {
                "parameter_size": "3.2B",
                "quantization_level": "Q4_K_M",
                "family": "llama",
            },
        }
        for name, digest in digests.items()
    ]
    return {"/api/tags": (200, {"models": entries})}


THERE = listed(**{"llama3_2:latest": DIGEST, "qwen3:4b": OTHER})


def request(prompt: str = "Hello", system: str | None = None, **settings: Any) -> Request:
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    return Request(tuple(messages), **settings)


def ask(model: OllamaModel, ours: Request | None = None) -> Response:
    return asyncio.run(model.complete(ours or request()))


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# The wire.


def test_answer_and_token_counts_arrive():
    with StubServer() as stub:
        reply = ask(OllamaModel("llama3.2", stub.root), request("two words", "Be brief"))
    assert reply.text.startswith("echo:") and reply.finish == "stop"
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (4, 1)
    assert reply.model == "llama3.2-2026"


NOT_ITS_OWN = {"429_quota"}  # nothing is paid


@pytest.mark.parametrize("fault", sorted(set(KINDS) - NOT_ITS_OWN))
def test_fault_becomes_an_error_of_its_kind(fault):
    if fault == "huge":
        options.max_reply_bytes = 1_000_000
    timeout_s = 0.4 if KINDS[fault] == "timeout" else 20.0
    with StubServer(faults=fault) as stub, pytest.raises(LLMError) as caught:
        ask(OllamaModel("llama3.2", stub.root, timeout_s=timeout_s))
    assert caught.value.kind == KINDS[fault]
    assert caught.value.model == "llama3.2"


# It has no sign for a refusal: the text says it.
@pytest.mark.parametrize("fault", sorted(set(REPLIES) - {"refusal", "content_filter"}))
def test_cuts_and_empty_answers_are_responses(fault):
    with StubServer(faults=fault) as stub:
        reply = ask(OllamaModel("llama3.2", stub.root))
    text, finish = REPLIES[fault]
    assert reply.finish == finish
    if text is not None:
        assert reply.text == text


@pytest.mark.parametrize("fault", sorted(RAW))
def test_text_is_handed_on_raw(fault):
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    with StubServer(faults=fault) as stub:
        reply = ask(OllamaModel("llama3.2", stub.root), request(schema=schema))
    assert reply.finish == "stop" and reply.text


def test_a_stream_s_first_piece_is_no_answer():
    body = {"model": "m", "message": {"role": "assistant", "content": "He"}, "done": False}
    with pytest.raises(LLMError, match="no finished message") as caught:
        parse_ollama(WireReply(200, {}, encode_json(body)), model="m")
    assert caught.value.kind == "bad_reply"


def test_an_error_with_status_200_is_the_server_s():
    with pytest.raises(LLMError, match="ran out of memory") as caught:
        parse_ollama(WireReply(200, {}, b'{"error": "ran out of memory"}'), model="m")
    assert caught.value.kind == "server"


ADDRESSES = [
    *("", "1.2.3.4", ":56789", "1.2.3.4:56789", "http://1.2.3.4", "https://example.com"),
    *("example.com/", "example.com:56789/path/", "https://example.com:56789/path"),
    *("[0001:002:003:0004::1]", "[0001:002:003:0004::1]:56789", "http://[::1]/path"),
]


@pytest.mark.parametrize("host", ADDRESSES)
def test_address_is_read_as_by_the_official_client(host):
    with ollama.Client(host=host) as client:
        assert server_address(host) == str(client._client.base_url).rstrip("/")


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost:11434", "http://[::]:11434"])
def test_an_address_to_listen_at_is_this_machine(host):
    assert server_address(host) == "http://127.0.0.1:11434"


def test_ollama_host_is_the_default_address(monkeypatch):
    assert OllamaModel("m").base_url == "http://127.0.0.1:11434"
    monkeypatch.setenv("OLLAMA_HOST", "gpu-box:1234")
    assert OllamaModel("m").base_url == "http://gpu-box:1234"
    assert OllamaModel("m", "other").base_url == "http://other:11434"
    assert OllamaModel("m", host="other").base_url == "http://other:11434"


def test_a_key_goes_to_other_machines_only(monkeypatch):
    monkeypatch.setenv("OLLAMA_API_KEY", "sk-test-Zq8Lm3Xw9Tr5Kd7V")
    assert not OllamaModel("m")._key()
    assert OllamaModel("m", "https://ollama.com")._key()
    with StubServer() as stub:
        ask(OllamaModel("m", stub.root))
        ask(OllamaModel("m", stub.root, api_key="sk-given"))
        assert "authorization" not in stub.requests[0].headers
        assert stub.requests[1].headers["authorization"] == "Bearer sk-given"


def test_settings_are_checked_when_built():
    for settings, what in (
        ({"num_ctx": 0}, "num_ctx"),
        ({"parallel": 0}, "parallel"),
        ({"digest": "latest"}, "digest"),
        ({"options": {"num_ctx": 5}}, "num_ctx="),
        ({"base_url": "a", "host": "b"}, "one of them"),
        ({"host": "http://a:port"}, "no address"),
        ({"structured": "tool"}, "structured"),
    ):
        with pytest.raises(ValueError, match=what):
            OllamaModel("m", **settings)
    with pytest.raises(TypeError, match="AsyncClient"), ollama.Client() as client:
        OllamaModel("m", client=client)


# Errors that say what to do.


def test_a_refused_connection_asks_whether_ollama_is_running():
    port = closed_port()
    with pytest.raises(LLMError, match="ollama serve") as caught:
        ask(OllamaModel("m", f"127.0.0.1:{port}"))
    assert caught.value.kind == "connection" and str(port) in str(caught.value)
    with pytest.raises(LLMError, match="ollama serve"):
        dfn.ollama.models(f"127.0.0.1:{port}")


def test_a_missing_model_says_how_to_get_it_and_what_is_there():
    def fault(number: int, body: dict[str, Any]) -> str:
        return "404"

    with (
        StubServer(faults=fault, pages=THERE) as stub,
        pytest.raises(LLMError, match=r"ollama pull llama3\.3") as caught,
    ):
        ask(OllamaModel("llama3.3", stub.root))
    assert caught.value.kind == "not_found"
    notes = " ".join(caught.value.__notes__)
    assert "llama3.2:latest" in notes and "qwen3:4b" in notes


def test_a_prompt_longer_than_the_context_is_not_sent():
    with StubServer() as stub:
        model = OllamaModel("m", stub.root, num_ctx=100)
        with pytest.raises(LLMError, match=r"num_ctx=100\b") as caught:
            ask(model, request("x" * 501))
        assert caught.value.kind == "bad_request" and stub.n_requests == 0
        ask(model, request("x" * 500))
        ask(model.with_(num_ctx=None), request("x" * 501))
        assert stub.n_requests == 2
        assert all(body["truncate"] is False for body in stub.bodies)


@pytest.mark.parametrize("status", [400, 500])
def test_a_prompt_that_the_server_finds_too_long_names_num_ctx(status):
    # As Ollama passes on what its runner says.
    inner = {
        "error": {
            "code": 400,
            "message": "request (351 tokens) exceeds the available context size (256 tokens), try increasing it",
        }
    }
    reply = WireReply(status, {}, encode_json({"error": json.dumps(inner)}))
    with pytest.raises(LLMError, match="num_ctx=256") as caught:
        parse_ollama(reply, model="m", num_ctx=256)
    assert caught.value.kind == "bad_request"


# Weights.


def test_identity_has_the_digest_once_it_is_known_and_opens_no_socket():
    with StubServer(pages=THERE) as stub:
        model = OllamaModel("llama3.2", stub.root, options={"seed": 3}, think=False)
        before = model.identity()
        assert stub.n_requests == 0
        assert before["endpoint"] == stub.root and "digest" not in before
        asyncio.run(model.prepare())
        assert stub.n_requests == 1
        assert model.identity() == {
            "provider": "ollama",
            "endpoint": "",
            "model": "llama3.2",
            "digest": DIGEST[:12],
            "num_ctx": "8192",
            "options": '{"seed": 3}',
            "think": "false",
        }
        assert OllamaModel("llama3.2:latest", stub.root).identity()["model"] == "llama3.2"
        assert OllamaModel("qwen3:4b", stub.root).identity()["digest"] == OTHER[:12]
        assert stub.n_requests == 1


def test_digest_is_noted_for_the_next_process_and_when_nobody_answers():
    with StubServer(pages=THERE) as stub:
        model = OllamaModel("llama3.2", stub.root)
        asyncio.run(model.prepare())
        known = model.identity()
    tags._seen.clear()  # as in another process
    asyncio.run(model.prepare())  # the server is gone
    assert model.identity() == known


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"http://127.0.0.1:11434": 3}', '{"a": {"b": 1}}']
)
def test_a_damaged_note_is_no_note(content):
    folder = tags.home()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / tags.FILE_NAME).write_text(content)
    tags._seen.clear()
    assert "digest" not in OllamaModel("llama3.2").identity()
    tags.note_digests("http://127.0.0.1:11434", {"llama3.2": DIGEST})
    tags._seen.clear()
    assert OllamaModel("llama3.2").identity()["digest"] == DIGEST[:12]


def test_a_pinned_digest_needs_no_server_and_refuses_other_weights():
    pinned = OllamaModel("llama3.2", f"127.0.0.1:{closed_port()}", digest=f"sha256:{DIGEST}")
    assert pinned.identity()["digest"] == DIGEST[:12]
    with StubServer(pages=THERE) as stub:
        ask(OllamaModel("llama3.2", stub.root, digest=DIGEST[:12]))
        with pytest.raises(LLMError, match="has the weights b179c9523d0e, not") as caught:
            ask(OllamaModel("llama3.2", stub.root, digest="a" * 12))
        assert caught.value.kind == "not_found"
        assert [r.path for r in stub.requests].count("/api/chat") == 1


# In a run.


def pipeline(url: str, **settings: Any) -> dfn.Pipeline:
    rows = [{"text": f"row {i}"} for i in range(3)]
    model = OllamaModel("llama3.2", url, **settings)
    return dfn.Source.list(rows) >> dfn.LLMStep(
        prompt="About {text}", output_columns=["note"], model=model
    )


def chats(stub: StubServer) -> int:
    return sum(r.path == "/api/chat" for r in stub.requests)


def test_first_run_keeps_its_answers_under_the_digest_also_after_a_display():
    with StubServer(pages=THERE) as stub:
        notes = pipeline(stub.root)
        repr(notes), notes._repr_mimebundle_()
        assert stub.n_requests == 0  # looking opens no socket
        first = notes.run(show_progress=False)
        assert chats(stub) == 3
        again = pipeline(stub.root).run(show_progress=False)
        assert chats(stub) == 3 and list(again) == list(first)


def test_a_fully_answered_run_needs_no_server_not_even_in_a_new_process():
    with StubServer(pages=THERE) as stub:
        url = stub.root
        first = pipeline(url).run(show_progress=False)
    tags._seen.clear()
    assert list(pipeline(url).run(show_progress=False)) == list(first)


def test_the_same_weights_elsewhere_are_not_asked_again():
    with StubServer(pages=THERE) as one, StubServer(pages=THERE) as other:
        pipeline(one.root).run(show_progress=False)
        pipeline(other.root).run(show_progress=False)
        assert (chats(one), chats(other)) == (3, 0)


def test_other_weights_under_the_same_name_are_asked_anew():
    with StubServer(pages=THERE) as stub:
        notes = pipeline(stub.root)
        notes.run(show_progress=False)
        stub.pages = listed(**{"llama3_2:latest": OTHER})
        notes.run(show_progress=False)  # the same pipeline, the same kernel
        assert chats(stub) == 6
        notes.run(show_progress=False)
        assert chats(stub) == 6


def test_replay_mode_opens_no_socket():
    with StubServer(pages=THERE) as stub:
        first = pipeline(stub.root).run(show_progress=False)
        n = stub.n_requests
        options.mode = "replay"
        assert list(pipeline(stub.root).run(show_progress=False)) == list(first)
        assert stub.n_requests == n


def test_a_recording_of_it_is_replayed(tmp_path):
    with StubServer(pages=THERE) as stub:
        first = pipeline(stub.root).run(show_progress=False)
    dfn.memo.export(tmp_path / "calls.jsonl")
    options.home = tmp_path / "elsewhere"
    replay = dfn.ReplayModel(tmp_path / "calls.jsonl")
    step = dfn.LLMStep(prompt="About {text}", output_columns=["note"], model=replay)
    rows = [{"text": f"row {i}"} for i in range(3)]
    again = (dfn.Source.list(rows) >> step).run(show_progress=False)
    assert sorted(r["note"] for r in again) == sorted(r["note"] for r in first)


# What is there.


def test_models_are_listed_by_name():
    with StubServer(pages=THERE) as stub:
        found = dfn.ollama.models(stub.root)
    assert [row["name"] for row in found] == ["llama3.2:latest", "qwen3:4b"]
    assert found[0] == {
        "name": "llama3.2:latest",
        "parameters": "3.2B",
        "quantization": "Q4_K_M",
        "family": "llama",
        "size_bytes": 2_019_393_189,
        "digest": DIGEST[:12],
        "modified": "2026-11-20T10:00:00Z",
    }
    shown = repr(found)
    assert "2 models" in shown and "3.2B" in shown and DIGEST[:12] in shown
    assert "qwen3:4b" in found._repr_mimebundle_()["text/html"]


def test_an_empty_list_says_how_to_get_a_model():
    with StubServer(pages=listed()) as stub:
        found = dfn.ollama.models(stub.root)
    assert list(found) == [] and "ollama pull" in repr(found)


def test_what_answers_otherwise_is_no_list_of_models():
    with (
        StubServer(pages={"/api/tags": (200, {"hello": 1})}) as stub,
        pytest.raises(LLMError, match="no list of models"),
    ):
        dfn.ollama.models(stub.root)


# Against a model at work, behind a stand-in for Ollama.


class Mood(BaseModel):
    mood: str = Field(max_length=20)
    why: str = Field(max_length=60)


@pytest.mark.local_model
def test_a_real_model_answers_through_adapter_and_official_client(llama_cpp):
    ours = request("Say hello.", temperature=0.0, max_tokens=12)
    with OllamaFront(llama_cpp.url, llama_cpp.key, llama_cpp.name) as front:
        model = OllamaModel(llama_cpp.name, front.url, num_ctx=None)
        reply = ask(model, ours)
        with ollama.Client(host=front.url) as client:
            theirs = client.chat(
                model=llama_cpp.name,
                messages=[{"role": "user", "content": "Say hello."}],
                options={"temperature": 0.0, "num_predict": 12},
            )
        assert reply.text and reply.text == theirs.message.content
        assert reply.usage is not None
        assert reply.usage.output_tokens == theirs.eval_count
        assert reply.usage.input_tokens == theirs.prompt_eval_count
        answer = ask(
            model,
            request(
                "It is sunny.", temperature=0.0, max_tokens=99, schema=Mood.model_json_schema()
            ),
        )
        Mood.model_validate_json(answer.text)
        with pytest.raises(LLMError, match="ollama pull") as caught:
            ask(model.with_(name="llama3.3"))
        assert f"{llama_cpp.name}:latest" in " ".join(caught.value.__notes__)
        with pytest.raises(LLMError, match="does not fit into the context") as too_long:
            ask(model, request("word " * 3000, max_tokens=5))
        assert too_long.value.kind == "bad_request"
