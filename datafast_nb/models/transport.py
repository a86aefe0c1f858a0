"""The connection: one pooled HTTP session for a run. Nothing here retries or sleeps."""

from __future__ import annotations

import asyncio
import io
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from datafast_nb.errors import LLMError
from datafast_nb.models.wire import WireReply, host_of
from datafast_nb.options import options

if TYPE_CHECKING:
    import aiohttp

CONNECT_TIMEOUT_S = 5.0
# aiohttp warns of plain bytes above 1 MiB and wants a file object.
_LARGE_BODY_BYTES = 1 << 20
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Transport:
    """One pooled HTTP session. Opened by the first `post`, on the loop that runs it."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._proxies: dict[str, str | None] = {}

    def belongs_here(self) -> bool:
        """Whether the running loop may use this session."""
        return self._loop is None or self._loop is asyncio.get_running_loop()

    async def post(
        self, url: str, *, headers: Mapping[str, str], body: bytes | None, timeout_s: float
    ) -> WireReply:
        """Send one POST, or a GET where `body` is None, and read the whole reply.

        Redirects are refused, so that key and prompt go to no other host; `timeout_s` is the
        deadline for the whole attempt, also where the reply drips.

        Raises
        ------
        LLMError
            Kind "timeout"; "connection" (refused, reset, cut off); "too_large" (above
            `options.max_reply_bytes` after decompression); "bad_reply" (no HTTP, or a broken
            encoding); "bad_request" (redirect, impossible address).
        """
        made = await self._exchange(url, headers, body, timeout_s)
        if isinstance(made, LLMError):
            # Raised out here: the frames below hold headers, which carry the key, or echo it,
            # and tracebacks can show local variables.
            raise made.with_traceback(None)
        return made

    async def _exchange(
        self, url: str, headers: Mapping[str, str], body: bytes | None, timeout_s: float
    ) -> WireReply | LLMError:
        import aiohttp

        session = self._session or self._open()
        try:
            response = await session.request(
                "GET" if body is None else "POST",
                _as_url(url),
                data=io.BytesIO(body) if body and len(body) >= _LARGE_BODY_BYTES else body,
                headers=headers,
                timeout=_timeout(timeout_s),
                allow_redirects=False,
                proxy=self._proxy(url),
            )
            try:
                if 300 <= response.status < 400:
                    return _redirect_error(url, response.headers.get("location", ""))
                data = await _read(response, url)
                return WireReply(response.status, response.headers, data)
            finally:
                response.release()
        except LLMError as exc:
            return exc
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
            return _network_error(exc, url, timeout_s)

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        self._loop = asyncio.get_running_loop()
        # limit=0: the run limits calls in flight per model, a second limit would hide in here.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=_tls()),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "gzip, deflate", "User-Agent": "datafast-nb"},
            auto_decompress=False,
        )
        return self._session

    def _proxy(self, url: str) -> str | None:
        """The system's proxy for this address, looked up once per host."""
        start = url[: url.find("/", 8) + 1]
        if start not in self._proxies:
            self._proxies[start] = _system_proxy(url)
        return self._proxies[start]

    async def close(self) -> None:
        """Close all connections. Sending again opens a new session."""
        session, self._session, self._loop = self._session, None, None
        if session is not None:
            await session.close()


current: ContextVar[Transport | None] = ContextVar("datafast_nb_transport", default=None)
"""The session of the run that this task belongs to."""


@asynccontextmanager
async def use_transport() -> AsyncIterator[Transport]:
    """One session for every call made inside; closed at the end."""
    transport = Transport()
    token = current.set(transport)
    try:
        yield transport
    finally:
        current.reset(token)
        await transport.close()


async def send(
    url: str, *, headers: Mapping[str, str], body: bytes | None, timeout_s: float
) -> WireReply:
    """`Transport.post` on the run's session, or on one of its own where there is none."""
    transport = current.get()
    if transport is not None and transport.belongs_here():
        return await transport.post(url, headers=headers, body=body, timeout_s=timeout_s)
    async with use_transport() as own:
        return await own.post(url, headers=headers, body=body, timeout_s=timeout_s)


@lru_cache(maxsize=64)
def _as_url(url: str) -> Any:
    from yarl import URL

    return URL(url)


@lru_cache(maxsize=64)
def _timeout(timeout_s: float) -> aiohttp.ClientTimeout:
    import aiohttp

    return aiohttp.ClientTimeout(total=timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))


@lru_cache(maxsize=1)
def _tls() -> Any:
    """The system's certificates; those of certifi where Python finds none (python.org on macOS)."""
    import ssl

    paths = ssl.get_default_verify_paths()
    if paths.cafile or paths.capath:
        return True  # aiohttp's own context, made once per process
    try:
        import certifi
    except ImportError:
        return True
    return ssl.create_default_context(cafile=certifi.where())


def _system_proxy(url: str) -> str | None:
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in _LOOPBACK:
        return None
    proxy = getproxies().get(parts.scheme)
    return None if proxy is None or proxy_bypass(host) else proxy


async def _read(response: aiohttp.ClientResponse, url: str) -> bytes:
    """The body, decompressed, never more than the limit in memory."""
    limit = options.max_reply_bytes
    length = response.content_length
    if length is not None and length <= limit:
        data = await response.read()
    elif length is not None:
        raise _too_large(url, limit)
    else:
        pieces, size = [], 0
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > limit:
                response.close()
                raise _too_large(url, limit)
            pieces.append(piece)
        data = b"".join(pieces)
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("identity", "") or not data:
        return data
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise LLMError(
            f"{host_of(url)} sent a reply encoded as {encoding[:40]!r}, which nobody asked for; "
            "look at the proxy or gateway in between",
            kind="bad_reply",
        )
    return decompress(data, limit, url)


def decompress(data: bytes, limit: int, url: str) -> bytes:
    """Unpack gzip or deflate, stopping above `limit` bytes. Raises LLMError; `url` names the place."""
    # 32 + 15: gzip or zlib, as the header says; some servers send "deflate" without a header.
    for window in (47, -15):
        decoder = zlib.decompressobj(window)
        try:
            plain = decoder.decompress(data, limit + 1)
        except zlib.error:
            continue
        if len(plain) > limit:
            raise _too_large(url, limit)
        if not decoder.eof:
            raise LLMError(f"{host_of(url)} sent a compressed reply cut short", kind="connection")
        return plain
    raise LLMError(f"{host_of(url)} sent a reply that is not the gzip it says", kind="bad_reply")


def _too_large(url: str, limit: int) -> LLMError:
    return LLMError(
        f"{host_of(url)} sent a reply of more than {limit:,} bytes; it was dropped. "
        "Lower max_tokens, or raise options.max_reply_bytes",
        kind="too_large",
    )


def _redirect_error(url: str, location: str) -> LLMError:
    target = urlsplit(location).hostname or "another address of its own"
    return LLMError(
        f"{host_of(url)} redirects to {target[:100]}; redirects are refused, so that key and "
        "prompt go nowhere else. Set base_url to the final address if you trust it",
        kind="bad_request",
    )


def _network_error(exc: Exception, url: str, timeout_s: float) -> LLMError:
    import aiohttp

    host = host_of(url)
    if isinstance(exc, aiohttp.ConnectionTimeoutError):
        return LLMError(
            f"no connection to {host} within {min(CONNECT_TIMEOUT_S, timeout_s):g} s; "
            "check the address and the network",
            kind="connection",
        )
    if isinstance(exc, TimeoutError):
        return LLMError(
            f"{host} did not finish its reply within {timeout_s:g} s (timeout_s); "
            "the call may have been billed",
            kind="timeout",
            maybe_billed=True,
        )
    if isinstance(exc, aiohttp.InvalidURL):
        return LLMError(f"{url[:200]!r} is no address; check base_url", kind="bad_request")
    if isinstance(exc, aiohttp.ClientResponseError):
        return LLMError(f"{host} does not speak HTTP here: {exc.message[:100]}", kind="bad_reply")
    if isinstance(exc, (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError)):
        return LLMError(
            f"no trusted connection to {host}: its certificate or encryption was not accepted "
            f"({type(exc).__name__}). Check base_url (https or http) and proxies in between",
            kind="connection",
        )
    if isinstance(exc, aiohttp.ClientConnectorError):
        reason = exc.os_error.strerror or type(exc.os_error).__name__
        return LLMError(
            f"cannot connect to {host}: {reason[:100]}. Is the server running, the address right?",
            kind="connection",
        )
    if isinstance(exc, (aiohttp.ClientError, OSError)):
        return LLMError(
            f"the connection to {host} broke before the reply was whole "
            f"({type(exc).__name__}); the call may have been billed",
            kind="connection",
            maybe_billed=True,
        )
    return LLMError(
        f"the request to {host} cannot be sent ({type(exc).__name__}): an address or header "
        "holds a character that HTTP does not allow. Check base_url, headers and the API key",
        kind="bad_request",
    )
