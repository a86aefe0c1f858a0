"""Drafts: a pipeline with another prompt, model or temperature at one of its LLM steps.

A draft is a pipeline like any other; the one in the notebook does not change.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from datafast_nb.display.views import PENDING
from datafast_nb.errors import RecordError
from datafast_nb.graph import Node, ordered
from datafast_nb.models.base import Model
from datafast_nb.pipeline import Pipeline
from datafast_nb.records import Record
from datafast_nb.steps.llm import LANGUAGE_FIELDS, LLMStep
from datafast_nb.steps.sampling import Sample
from datafast_nb.steps.transform import Map
from datafast_nb.validate import CompiledNode, CompiledPipeline, inspect_graph

EDITED = ("prompt", "system", "model", "temperature", "n")
MAX_OUTPUTS = 100


class Drafts:
    """The changes to a pipeline's LLM steps. Every method takes microseconds and runs nothing."""

    def __init__(self, pipeline: Pipeline, models: Sequence[Model] = ()) -> None:
        self.original = pipeline
        self.compiled: CompiledPipeline = inspect_graph(pipeline._tail)[0]
        self._nodes = {c.name: c for c in self.compiled.nodes}
        self.llm_steps = [c.name for c in self.compiled.nodes if isinstance(c.step, LLMStep)]
        self._lock = threading.RLock()
        self._changes: dict[str, dict[str, Any]] = {}
        """Step → what differs; assigned as a whole, so that it can be read without the lock."""
        self._made: Pipeline | None = None
        self.models: dict[str, Model] = {m.name: m for m in models}
        for name in self.llm_steps:
            for model in self._original(name).models:
                self.models.setdefault(model.name, model)

    @property
    def is_changed(self) -> bool:
        """Something differs from the pipeline in the notebook."""
        return bool(self._changes)

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline with the changes. Raises what the changed step raises."""
        with self._lock:
            if not self._changes:
                return self.original
            if self._made is None:
                self._made = self._with_changes()
            return self._made

    def _with_changes(self) -> Pipeline:
        made: dict[int, Node] = {}
        names = {id(c.node): c.name for c in self.compiled.nodes}
        for node in ordered(self.original._tail):
            parents = tuple(made[id(p)] for p in node.parents)
            name = names[id(node)]
            if name in self._changes:
                made[id(node)] = Node(self.step(name), parents)
            elif parents != node.parents:
                made[id(node)] = Node(node.step, parents)
            else:
                made[id(node)] = node  # what lies before is shared
        return Pipeline._of(made[id(self.original._tail)], self.original._result)

    def node(self, name: str) -> CompiledNode:
        """A step of the pipeline as it was compiled. Raises ValueError."""
        if name not in self._nodes:
            raise ValueError(f"no step {name!r}; there are: {', '.join(self._nodes)}")
        return self._nodes[name]

    def _original(self, name: str) -> LLMStep:
        step = self.node(name).step
        if not isinstance(step, LLMStep):
            raise ValueError(f"step {name!r} asks no model")
        return step

    def step(self, name: str) -> LLMStep:
        """An LLM step with its changes."""
        step, changes = self._original(name), self._changes.get(name)
        return step if not changes else _redone(step, self._arguments(step, changes))

    def settings(self, name: str) -> dict[str, Any]:
        """What can be edited: prompt, system, model, temperature, n."""
        return {**self._in_notebook(name), **self._changes.get(name, {})}

    def _in_notebook(self, name: str) -> dict[str, Any]:
        step = self._original(name)
        return {
            "prompt": step._templates[0].text if step._templates else "",
            "system": step.system_prompt or "",
            "model": step.models[0].name if step.models else "",
            "temperature": step._temperatures[0] if step._temperatures else None,
            "n": step.num_outputs,
        }

    def set(self, name: str, changes: Mapping[str, Any]) -> None:
        """Change a step; a value as in the notebook takes the change back. Raises ValueError."""
        step, original = self._original(name), self._in_notebook(name)
        with self._lock:
            kept = dict(self._changes.get(name, {}))
            for key, value in changes.items():
                if key not in EDITED:
                    raise ValueError(f"{key!r} cannot be edited; there are: {', '.join(EDITED)}")
                value = _checked(key, value, self.models)
                if key == "prompt" and isinstance(step.prompt, Sample) and value != original[key]:
                    raise ValueError(
                        "the prompts of this step are drawn from a Sample: edit the code"
                    )
                kept[key] = value
            kept = {k: v for k, v in kept.items() if v != original[k]}
            if kept:  # a template that cannot be read, a number that makes no sense
                _redone(step, self._arguments(step, kept))
            others = {k: v for k, v in self._changes.items() if k != name}
            self._changes = {**others, name: kept} if kept else others
            self._made = None

    def drop(self) -> None:
        """Back to the pipeline in the notebook."""
        with self._lock:
            self._changes = {}
            self._made = None

    def _arguments(self, step: LLMStep, changes: Mapping[str, Any]) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for key, value in changes.items():
            if key == "prompt":
                many = step.prompt
                is_list = not isinstance(many, (str, Sample))
                given["prompt"] = [value, *list(many)[1:]] if is_list else value
            elif key == "system":
                given["system_prompt"] = value or None
            elif key == "model":
                given["model"] = self.models[value]
            elif key == "temperature":
                given["temperature"] = value
            else:
                given["num_outputs"] = value
        return given

    def unknown(self, name: str, record: Record | None = None) -> list[str]:
        """Fields of the prompts that no column has, as far as that can be known."""
        step, node = self.step(name), self.node(name)
        columns = node.before.columns if node.before is not None else node.columns
        found = []
        for field in step.fields:
            if step._languages and field in LANGUAGE_FIELDS:
                continue
            has = columns.has(field)
            if has is None and record is not None:
                has = field in record
            if has is False:
                found.append(field)
        return found

    def rendered(self, name: str, record: Record | None) -> str:
        """The messages that would be sent about a record; "" where they cannot be written."""
        step = self.step(name)
        if record is None or not step.variants:
            return ""
        if any(record.get(field) is PENDING for field in step.fields):
            return ""  # of a preview: what an earlier step would be asked for
        try:
            messages = step.messages(record, step.variants[0])
        except (KeyError, RecordError):
            return ""
        if len(messages) == 1:
            return messages[0]["content"]
        return "\n\n".join(f"[{m['role']}]\n{m['content']}" for m in messages)


def _checked(key: str, value: Any, models: Mapping[str, Model]) -> Any:
    if key in ("prompt", "system"):
        return "" if value is None else str(value)
    if key == "model":
        if value not in models:
            raise ValueError(f"no model {value!r} here; there are: {', '.join(models)}")
        return value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if key == "temperature":
        if value is not None and not (is_number and 0 <= value <= 5):
            raise ValueError(f"temperature is a number from 0 to 5, not {value!r}")
        return value
    if not is_number or value != int(value) or not 1 <= value <= MAX_OUTPUTS:
        raise ValueError(f"n is a whole number from 1 to {MAX_OUTPUTS}, not {value!r}")
    return int(value)


def _redone(step: LLMStep, changes: Mapping[str, Any]) -> LLMStep:
    """The step made again, with other arguments."""
    names: dict[str, None] = {}
    for cls in type(step).__mro__:
        if "__init__" in vars(cls) and issubclass(cls, LLMStep):
            parameters = inspect.signature(cls.__init__).parameters.values()
            names.update(dict.fromkeys(p.name for p in parameters if p.kind is not p.VAR_KEYWORD))
            if all(p.kind is not p.VAR_KEYWORD for p in parameters):
                break
    kept = {n: getattr(step, n) for n in names if n not in ("self", "llm") and hasattr(step, n)}
    made = type(step)(**{**kept, **changes})
    made._name, made._site = step._name, step._site
    for name in ("input_mappings", "output_mappings"):
        if name in vars(step):
            setattr(made, name, getattr(step, name))
    return made


def has_known_places(pipeline: Pipeline) -> bool:
    """The records that enter the first LLM step are those of the source, one for one."""
    steps = pipeline.steps[1:]
    first = next((i for i, s in enumerate(steps) if isinstance(s, LLMStep)), len(steps))
    return all(isinstance(s, Map) for s in steps[:first])
