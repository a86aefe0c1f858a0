import asyncio
import gc
import gzip
import time
import tracemalloc
import zlib

import pytest
from stub_server import StubServer

from datafast_nb.errors import LLMError
from datafast_nb.models.transport import Transport, decompress, send, use_transport
from datafast_nb.models.wire import SecretHeaders, WireReply
from datafast_nb.options import options

HEADERS = SecretHeaders({"Content-Type": "application/json"})


def post(stub: StubServer, body: bytes = b"{}", timeout_s: float = 10.0) -> WireReply:
    return asyncio.run(
        send(f"{stub.url}/chat/completions", headers=HEADERS, body=body, timeout_s=timeout_s)
    )


def failure(stub: StubServer, timeout_s: float = 10.0) -> LLMError:
    with pytest.raises(LLMError) as caught:
        post(stub, timeout_s=timeout_s)
    return caught.value


@pytest.mark.parametrize("fault", [None, "gzip", "chunked"])
def test_reply_arrives_whole_however_it_is_sent(fault):
    with StubServer(faults=fault) as stub:
        reply = post(stub)
    assert reply.status == 200
    assert reply.body.startswith(b"{") and reply.body.endswith(b"}")
    assert reply.headers["Content-Type"] == reply.headers["content-type"] == "application/json"


def test_statuses_are_replies_not_errors():
    with StubServer(faults="500") as stub:
        assert post(stub).status == 500


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("hang", "timeout"),
        ("slow_drip", "timeout"),
        ("reset_before", "connection"),
        ("close_before", "connection"),
        ("reset_mid_body", "connection"),
        ("close_mid_body", "connection"),
        ("redirect_other", "bad_request"),
    ],
)
def test_fault_has_its_kind_and_ends_in_time(fault, kind):
    with StubServer(faults=fault) as stub:
        start = time.perf_counter()
        error = failure(stub, timeout_s=0.4)
    assert error.kind == kind
    assert "127.0.0.1" in str(error)
    assert time.perf_counter() - start < 2.0


def test_closed_port_is_a_connection_error_naming_the_host():
    with StubServer() as stub:
        pass
    error = failure(stub)
    assert error.kind == "connection" and f"127.0.0.1:{stub.port}" in str(error)


def test_failed_encryption_is_told_from_a_broken_connection():
    with StubServer() as stub, pytest.raises(LLMError, match="certificate or encryption") as caught:
        url = f"https://127.0.0.1:{stub.port}/v1"
        asyncio.run(send(url, headers=HEADERS, body=b"{}", timeout_s=3))
    assert caught.value.kind == "connection"


def test_redirect_sends_nothing_to_the_other_host():
    with (
        StubServer() as other,
        StubServer(faults="redirect_other", redirect_to=f"{other.url}/chat/completions") as stub,
    ):
        failure(stub)
        assert (stub.n_requests, other.n_requests) == (1, 0)


@pytest.mark.parametrize("fault", ["huge", "chunked"])
def test_reply_above_the_limit_is_dropped(fault):
    options.max_reply_bytes = 200
    with StubServer(faults=fault) as stub:
        error = failure(stub)
    assert error.kind == "too_large" and "200 bytes" in str(error)


def test_gzip_bomb_is_not_unpacked():
    with StubServer(faults="gzip_bomb") as stub:
        assert failure(stub).kind == "too_large"
    bomb = gzip.compress(b" " * 100_000_000, compresslevel=1)
    tracemalloc.start()
    with pytest.raises(LLMError, match="1,000,000 bytes"):
        decompress(bomb, 1_000_000, "http://x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_compressed_replies_of_all_kinds_are_read_and_cut_ones_refused():
    raw = zlib.compressobj(wbits=-15)
    for data in (
        gzip.compress(b"abc"),
        zlib.compress(b"abc"),
        raw.compress(b"abc") + raw.flush(),
    ):
        assert decompress(data, 10, "http://x") == b"abc"
    for data, kind in (
        (gzip.compress(b"abc" * 1000)[:-9], "connection"),
        (b"no gzip at all", "bad_reply"),
    ):
        with pytest.raises(LLMError) as caught:
            decompress(data, 10_000, "http://x")
        assert caught.value.kind == kind


def test_large_request_is_sent():
    body = b'{"messages": [{"content": "' + b"x" * 3_000_000 + b'"}]}'
    with StubServer() as stub:
        assert post(stub, body).status == 200
        assert len(stub.bodies[0]["messages"][0]["content"]) == 3_000_000


def test_one_session_reuses_its_connections():
    async def many(url: str) -> int:
        async with use_transport():
            for _ in range(5):
                await send(url, headers=HEADERS, body=b"{}", timeout_s=5)
            return len(stub._connections)

    with StubServer() as stub:
        assert asyncio.run(many(f"{stub.url}/chat/completions")) == 1


def test_closed_session_opens_again_and_nothing_is_left_open():
    async def twice(url: str) -> None:
        transport = Transport()
        for _ in range(2):
            await transport.post(url, headers=HEADERS, body=b"{}", timeout_s=5)
            await transport.close()

    with StubServer() as stub:
        asyncio.run(twice(f"{stub.url}/chat/completions"))
        assert stub.n_requests == 2
    gc.collect()  # an open session would warn here, and warnings are errors


def test_session_of_another_loop_is_not_used():
    with StubServer() as stub:
        url = f"{stub.url}/chat/completions"

        async def outer() -> None:
            async with use_transport():
                await send(url, headers=HEADERS, body=b"{}", timeout_s=5)

                def inner() -> int:
                    call = send(url, headers=HEADERS, body=b"{}", timeout_s=5)
                    return asyncio.run(call).status

                assert await asyncio.to_thread(inner) == 200  # carries the context along

        asyncio.run(outer())


def test_cancelled_call_leaves_the_session_usable():
    async def cancel(url: str) -> int:
        async with use_transport():
            task = asyncio.create_task(send(url, headers=HEADERS, body=b"{}", timeout_s=5))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return (await send(url, headers=HEADERS, body=b"{}", timeout_s=5)).status

    with StubServer(faults={1: "hang"}) as stub:
        assert asyncio.run(cancel(f"{stub.url}/chat/completions")) == 200


@pytest.mark.parametrize("url", ["http://", "http://127.0.0.1:99999/v1", "nonsense"])
def test_impossible_addresses_are_errors_of_ours(url):
    with pytest.raises(LLMError) as caught:
        asyncio.run(send(url, headers=HEADERS, body=b"{}", timeout_s=1))
    assert caught.value.kind in ("bad_request", "connection")


def test_proxy_of_the_system_is_used_except_for_this_machine(monkeypatch):
    with StubServer() as proxy, StubServer() as stub:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert post(stub).status == 200
        assert (stub.n_requests, proxy.n_requests) == (1, 0)
        far = "http://models.example/v1/chat/completions"
        reply = asyncio.run(send(far, headers=HEADERS, body=b"{}", timeout_s=5))
        assert (reply.status, proxy.n_requests) == (200, 1)
        assert proxy.requests[0].path == far
