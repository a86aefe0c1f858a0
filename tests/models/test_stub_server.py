"""The stub is what the guarantees are measured with, so it is tested itself."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import orjson
import pytest
import stub_server
from stub_server import FAULTS, StubServer, fault_reply, good_text

BODY = {
    "model": "m",
    "messages": [{"role": "user", "content": "hi"}],
    "response_format": {
        "type": "json_schema",
        "json_schema": {
            "name": "x",
            "schema": {
                "type": "object",
                "properties": {"a": {"type": "string"}, "b": {"type": "integer"}},
            },
        },
    },
}


def post(url: str, body: dict) -> dict:
    call = Request(f"{url}/chat/completions", orjson.dumps(body), method="POST")
    with urlopen(call, timeout=10) as reply:
        return orjson.loads(reply.read())


def test_equal_prompts_get_different_answers_and_all_is_recorded():
    with StubServer() as stub:
        texts = [
            post(stub.url, {"messages": BODY["messages"]})["choices"][0]["message"]["content"]
            for _ in range(2)
        ]
    assert texts[0] != texts[1]
    assert texts[0].rsplit(":", 1)[0] == texts[1].rsplit(":", 1)[0]
    assert stub.n_requests == 2 and [r.number for r in stub.requests] == [1, 2]
    assert stub.max_in_flight == 1


def test_faults_by_number_and_by_function():
    with StubServer(faults={2: "null_content"}) as stub:
        contents = [post(stub.url, BODY)["choices"][0]["message"]["content"] for _ in range(3)]
        assert [c is None for c in contents] == [False, True, False]
        stub.faults = lambda number, body: "empty_content" if body["model"] == "m" else None
        assert post(stub.url, BODY)["choices"][0]["message"]["content"] == ""


def test_answer_to_a_schema_is_an_object_of_it():
    value = orjson.loads(good_text(1, BODY))
    assert value.keys() == {"a", "b"} and isinstance(value["b"], int)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("dup_keys", lambda t: t.count('"a":') == 2),
        ("nan", lambda t: "NaN" in t),
        ("missing_key", lambda t: orjson.loads(t).keys() == {"b"}),
        ("extra_key", lambda t: orjson.loads(t).keys() == {"a", "b", "_model", "id", "__class__"}),
        ("fenced", lambda t: t.startswith("```json\n{") and t.endswith("}\n```")),
        ("trailing_comma", lambda t: t.endswith(",}")),
        ("array", lambda t: isinstance(orjson.loads(t), list)),
        ("wrong_type", lambda t: orjson.loads(t) == {"a": [[]], "b": [[]]}),
    ],
)
def test_damaged_answers_are_damaged_as_named(fault, check):
    reply = fault_reply(fault, good_text(1, BODY), BODY, "", "")
    text = orjson.loads(reply.split(b"\r\n\r\n", 1)[1])["choices"][0]["message"]["content"]
    assert check(text)


def test_unknown_fault_is_an_error():
    assert "no_such_fault" not in FAULTS
    with pytest.raises(ValueError, match="no_such_fault"):
        fault_reply("no_such_fault", "", {}, "", "")


def test_own_process_prints_its_port_and_counts():
    import datafast_nb

    root = Path(datafast_nb.__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, stub_server.__file__, "--latency-ms", "50"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    ) as process:
        assert process.stdout is not None
        try:
            base = f"http://127.0.0.1:{int(process.stdout.readline())}"
            post(f"{base}/v1", BODY)
            with urlopen(f"{base}/stats", timeout=10) as reply:
                assert orjson.loads(reply.read()) == {"requests": 1, "max_in_flight": 1}
        finally:
            process.terminate()
