"""A stand-in for Ollama: its chat API in front of a server that speaks OpenAI's.

It is not Ollama. It passes real answers, token counts and schemas through, so that the adapter
and the official client are tried against a model at work.
"""

from __future__ import annotations

import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DIGEST = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_TO_OPENAI = {
    "temperature": "temperature",
    "top_p": "top_p",
    "num_predict": "max_tokens",
    "seed": "seed",
}


class OllamaFront:
    """Serves `model` of the server at `backend` until the block is left."""

    def __init__(self, backend: str, key: str, model: str) -> None:
        self.backend, self.key, self.model = backend, key, model
        self.digest = DIGEST
        self.bodies: list[dict[str, Any]] = []

    def __enter__(self) -> OllamaFront:
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.reply(*front.get(self.path))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                front.bodies.append(body)
                self.reply(*front.post(self.path, body))

            def reply(self, status: int, value: dict[str, Any]) -> None:
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        if path != "/api/tags":
            return 404, {"error": "page not found"}
        details = {"parameter_size": "135M", "quantization_level": "Q4_1", "family": "llama"}
        entry = {"name": f"{self.model}:latest", "model": f"{self.model}:latest"}
        return 200, {
            "models": [{**entry, "size": 98_362_432, "digest": self.digest, "details": details}]
        }

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path != "/api/chat":
            return 404, {"error": "page not found"}
        if body["model"].removesuffix(":latest") != self.model:
            return 404, {"error": f"model '{body['model']}' not found"}
        asked = {"model": self.model, "messages": body["messages"]}
        for ours, theirs in _TO_OPENAI.items():
            if ours in body.get("options", {}):
                asked[theirs] = body["options"][ours]
        if isinstance(body.get("format"), dict):
            schema = {"name": "answer", "schema": body["format"]}
            asked["response_format"] = {"type": "json_schema", "json_schema": schema}
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        url = f"{self.backend}/v1/chat/completions"
        call = urllib.request.Request(url, json.dumps(asked).encode(), headers)
        try:
            with urllib.request.urlopen(call, timeout=60) as got:
                reply = json.load(got)
        except urllib.error.HTTPError as exc:
            # As Ollama does: the error of the server behind it, in a text.
            return exc.code, {"error": exc.read().decode()}
        choice, usage = reply["choices"][0], reply["usage"]
        return 200, {
            "model": body["model"],
            "message": {"role": "assistant", "content": choice["message"]["content"]},
            "done": True,
            "done_reason": choice["finish_reason"],
            "prompt_eval_count": usage["prompt_tokens"],
            "eval_count": usage["completion_tokens"],
        }
