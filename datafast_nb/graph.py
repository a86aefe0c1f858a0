"""The graph of a pipeline: nodes, their order, their names. Plain data, no running."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from datafast_nb.steps.base import SourceStep, Step


@dataclass(frozen=True, eq=False)
class Node:
    """A step in a pipeline, with the nodes it reads from. Shared between pipelines."""

    step: Step
    parents: tuple[Node, ...] = ()


def chain(steps: Sequence[Step], onto: Node | None = None) -> Node:
    """Nodes for steps one after another; returns the last."""
    node = onto
    for step in steps:
        node = Node(step, () if node is None else (node,))
    if node is None:
        raise ValueError("a pipeline needs at least one step")
    return node


def graft(tail: Node, onto: Node) -> Node:
    """The graph of `tail` set upon `onto`: its open starts read from `onto`."""
    made: dict[int, Node] = {}
    for node in ordered(tail):
        parents = tuple(made[id(p)] for p in node.parents) or (onto,)
        made[id(node)] = Node(node.step, parents)
    return made[id(tail)]


def ordered(tail: Node) -> list[Node]:
    """All nodes, each after the nodes it reads from, in the order written."""
    out: list[Node] = []
    seen: set[int] = set()
    stack: list[tuple[Node, Iterator[Node]]] = [(tail, iter(tail.parents))]
    seen.add(id(tail))
    while stack:  # no recursion: a pipeline built in a loop may be long
        node, parents = stack[-1]
        for parent in parents:
            if id(parent) not in seen:
                seen.add(id(parent))
                stack.append((parent, iter(parent.parents)))
                break
        else:
            out.append(node)
            stack.pop()
    return out


def node_names(nodes: Sequence[Node]) -> list[str]:
    """Name of each node: the given one, else `step_001_source` by place and kind."""
    return [
        node.step._name or f"step_{i:03d}_{node.step.kind_name()}"
        for i, node in enumerate(nodes, start=1)
    ]


def is_fragment(nodes: Sequence[Node]) -> bool:
    """The first step is no source: the pipeline waits to be set upon one."""
    return not isinstance(nodes[0].step, SourceStep)
