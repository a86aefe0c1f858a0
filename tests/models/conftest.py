"""llama.cpp's own server on this machine, a real peer for the adapters."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from datafast_nb.models.local import SMOLLM2_NAME, installed_weights


@dataclass(frozen=True)
class LlamaCpp:
    """Its address (without a page), the key it wants, the name of its one model."""

    url: str
    key: str
    name: str
    server: Any = field(repr=False)


@pytest.fixture(scope="session")
def llama_cpp() -> Iterator[LlamaCpp]:
    xllamacpp = pytest.importorskip("xllamacpp")
    key = secrets.token_hex(16)
    params = xllamacpp.CommonParams()
    params.verbosity = -1
    params.model.path = str(installed_weights())
    params.model_alias = {SMOLLM2_NAME}
    params.n_parallel, params.n_ctx, params.kv_unified = 1, 2048, False
    params.cpuparams.n_threads = 1
    params.n_gpu_layers = 0
    params.cache_ram_mib = 0
    params.ui = False
    params.api_keys = [key]
    server = xllamacpp.Server(params)
    yield LlamaCpp(server.listening_address, key, SMOLLM2_NAME, server)
