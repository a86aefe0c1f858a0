"""The live panel: `pipeline.panel()`, `result.explore()`, `run.panel()`.

What it says to the browser is in `docs/panel-protocol.md`. Everything but `model.py` works without
ipywidgets and anywidget, which come with the extra `panel`.
"""
