"""What becomes of each fault of the stub server, whatever the dialect."""

from __future__ import annotations

import traceback

FAULTS_BY_KIND = {
    "bad_request": ("400", "413", "422", "redirect_other"),
    "auth": ("401", "403"),
    "quota": ("402", "429_quota"),
    "not_found": ("404",),
    "server": ("408", "500", "502", "503", "504", "529", "error_in_200"),
    "rate_limited": ("429", "429_seconds", "429_date", "429_ms", "429_huge"),
    "timeout": ("hang", "slow_drip"),
    "connection": ("reset_before", "close_before", "reset_mid_body", "close_mid_body"),
    "bad_reply": (*("truncated_json", "empty_body", "wrong_schema", "empty_choices"),),
    "html": ("html_200",),
    "not_utf8": ("invalid_utf8",),
    "too_large": ("huge", "gzip_bomb"),
}
KINDS = {fault: kind for kind, faults in FAULTS_BY_KIND.items() for fault in faults}
REPLIES = {
    "null_content": ("", "stop"),
    "empty_content": ("", "stop"),
    "refusal": ("I cannot help with that.", "refused"),
    "content_filter": ("", "filtered"),
    "length": (None, "length"),
    "lone_surrogate": ("a\ufffdb", "stop"),
}
# Faults of the text itself: raw text is handed on, the engine parses it.
RAW = {
    *("gzip", "chunked", "prose", "fenced", "trailing_comma", "dup_keys", "nan", "missing_key"),
    *("extra_key", "wrong_type", "array", "deep_nest", "control_chars"),
}


def visible_text(error: BaseException, test_file: str) -> str:
    """Message, notes and tracebacks with locals; frames of the test itself left out."""
    seen: list[str] = []
    link: BaseException | None = error
    while link is not None:
        seen += [str(link), repr(link), repr(vars(link)), *getattr(link, "__notes__", ())]
        stack = traceback.StackSummary.extract(
            traceback.walk_tb(link.__traceback__), capture_locals=True
        )
        for frame in stack:
            if frame.filename != test_file and "asyncio" not in frame.filename:
                seen.append(str(frame.locals))
        link = link.__cause__ or link.__context__
    return "\n".join(seen)


def pieces(key: str) -> list[str]:
    return [key[i : i + 8] for i in range(len(key) - 7)]
