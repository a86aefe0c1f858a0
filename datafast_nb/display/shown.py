"""How an object with a view shows itself: in a notebook, in a terminal, on GitHub."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from importlib import import_module
from typing import Any

from datafast_nb.display import formats, html, markdown, text
from datafast_nb.display.views import Document, Head, Paragraph, plain


class Shown:
    """Base of objects with a `view()`. Showing them asks no model and never raises."""

    __slots__ = ()

    def view(self) -> Document:
        """Plain data for display."""
        raise NotImplementedError(f"{type(self).__name__} has no view()")

    def __repr__(self) -> str:
        return drawn(text.draw, safe_view(self.view))

    def _repr_mimebundle_(
        self, include: Collection[str] | None = None, exclude: Collection[str] | None = None
    ) -> dict[str, str]:
        return bundle(self.view, include, exclude)

    def _repr_html_(self) -> str:
        return drawn(html.draw, safe_view(self.view))

    def _repr_markdown_(self) -> str:
        return drawn(markdown.draw, safe_view(self.view))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """IPython's: in full by itself, one line inside a list or a dict."""
        printer.text(one_line(self) if cycle or len(printer.stack) > 1 else repr(self))

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        """Rich's: as wide as its console; what looks like its markup stays text."""
        text_class = import_module("rich.text").Text  # Rich is there: it alone calls this

        width = max(text.MIN_ROOM, options.max_width)
        is_ascii = True if options.ascii_only else None
        yield text_class(drawn(lambda d: text.draw(d, width, is_ascii), safe_view(self.view)))


def one_line(shown: Shown) -> str:
    """What an object is, as one line of at most 100 characters."""
    name = type(shown).__name__
    head = next((b for b in safe_view(shown.view).blocks if isinstance(b, Head)), Head(""))
    said = formats.cell(f"{head.title} {plain(head.facts)}", 90 - len(name))
    return f"<{name}: {text.for_output(said)}>" if said else f"<{name}>"


def bundle(
    view: Callable[[], Document],
    include: Collection[str] | None = None,
    exclude: Collection[str] | None = None,
) -> dict[str, str]:
    """The forms of a view that a front end chooses from; only those it asks for are drawn."""
    drawers = {"text/plain": text.draw, "text/html": html.draw, "text/markdown": markdown.draw}
    wanted = [
        mime
        for mime in drawers
        if (include is None or mime in include) and (exclude is None or mime not in exclude)
    ]
    document = safe_view(view)
    return {mime: drawn(drawers[mime], document) for mime in wanted}


def drawn(draw: Callable[[Document], str], document: Document) -> str:
    """The document drawn, or why it cannot be: a display never raises."""
    try:
        return draw(document)
    except Exception as exc:
        return draw(_instead(exc))


def safe_view(view: Callable[[], Document]) -> Document:
    """The view, or one that says why there is none: a display never raises."""
    try:
        return view()
    except Exception as exc:  # whatever a user's object does when it is looked at
        return _instead(exc)


def _instead(error: Exception) -> Document:
    said = formats.error_text(error)
    return Document((Head("Nothing to show"), Paragraph((f"it cannot be shown: {said}",))))
