"""A found circuit as a drawing and as files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from miclab.circuits.edges import Edge, Receiver, Sender
from miclab.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from miclab.circuits.found_circuit import FoundCircuit

KINDS = ("json", "graphml", "svg", "pdf", "png")
"""Files that a circuit can be written to."""
INPUTS = ("query", "key", "value", "mlp", "logits")
DASHES: dict[str, Any] = {"query": ":", "key": "-", "value": "--", "mlp": "-.", "logits": "-"}
WIDEST = 3.5
"""Points of the widest edge."""
GRAPHML = "http://graphml.graphdrawing.org/xmlns"


def node_of(part: Sender | Receiver) -> str:
    """The node of a sender, or of the part that a receiver belongs to."""
    if isinstance(part, Receiver) and part.kind == "logits":
        return "logits"
    if isinstance(part, Receiver):
        return str(Sender("head" if part.is_attention else "mlp", part.layer, part.head))
    return str(part)


def places(circuit: FoundCircuit) -> dict[str, tuple[float, float]]:
    """Where each node of the decoder stands: layers from bottom to top, heads from left to right, MLPs to the right."""
    middle = (circuit.heads - 1) / 2
    found = {"embedding": (middle, -1.0)}
    for layer in range(circuit.layers):
        for head in range(circuit.heads):
            found[str(Sender("head", layer, head))] = (float(head), 2.0 * layer + 1)
        if circuit.has_mlp:
            found[str(Sender("mlp", layer))] = (circuit.heads + 0.2, 2.0 * layer + 2)
    return found | {"logits": (middle, 2.0 * circuit.layers + 1)}


def draw_circuit(circuit: FoundCircuit, axes: Axes | None = None) -> Axes:
    """Nodes by layer, an arrow for each edge: width by the faithfulness lost without it, colour and dash by the input.
    The role that a key or value is mostly read at stands beside its arrow.

    Arguments:
        axes: where to draw; None: new axes.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import FancyArrowPatch

    from miclab.statistics.palette import series
    from miclab.statistics.style import new_axes

    where = places(circuit)
    axes = axes or new_axes(3.4 + 1.1 * circuit.heads, 2.4 + 1.1 * circuit.layers)
    used = {name for one in circuit.edges for name in (node_of(one.edge.sender), node_of(one.edge.receiver))}
    largest = max((_size(one.loss) for one in circuit.edges), default=0.0) or 1.0
    bends = _bends([one.edge for one in circuit.edges], where)
    for one, bend in zip(circuit.edges, bends, strict=True):
        start, end = where[node_of(one.edge.sender)], where[node_of(one.edge.receiver)]
        kind = one.edge.receiver.kind
        axes.add_patch(
            FancyArrowPatch(
                start, end, connectionstyle=f"arc3,rad={bend}", arrowstyle="-|>", mutation_scale=14, shrinkA=13,
                shrinkB=13, linewidth=0.7 + WIDEST * _size(one.loss) / largest, color=series(INPUTS.index(kind)),
                linestyle=DASHES[kind], zorder=1, alpha=0.85,
            )
        )  # fmt: skip
        if one.role:
            # The middle of the arc: half its bend, at a right angle to the straight line.
            x = (start[0] + end[0]) / 2 + bend / 2 * (end[1] - start[1])
            y = (start[1] + end[1]) / 2 - bend / 2 * (end[0] - start[0])
            axes.text(x, y, one.role, fontsize=6, ha="center", va="center", zorder=3, bbox=_box(0.1))
    for name, (x, y) in where.items():
        colour = "black" if name in used else "0.7"
        axes.text(x, y, name, ha="center", va="center", color=colour, fontsize=8, zorder=2, bbox=_box(0.35, colour))
    kinds = [kind for kind in INPUTS if any(one.edge.receiver.kind == kind for one in circuit.edges)]
    lines = [Line2D([], [], color=series(INPUTS.index(kind)), linestyle=DASHES[kind], label=kind) for kind in kinds]
    axes.legend(handles=lines, title="input", fontsize=7, title_fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    right = circuit.heads + 0.2 if circuit.has_mlp else circuit.heads - 1
    axes.set_xlim(-0.9, right + 0.7)
    axes.set_ylim(-1.5, 2 * circuit.layers + 1.5)
    axes.set_axis_off()
    title = f"{len(circuit.edges)} of {circuit.count} edges, {circuit.ablation} ablation"
    axes.set_title(f"{circuit.run}, step {circuit.step}\n{title}", fontsize="small", parse_math=False)
    return axes


def _bends(edges: list[Edge], where: dict[str, tuple[float, float]]) -> list[float]:
    """How far each arrow bends: different ways between the same nodes, long straight ones past the nodes between."""
    seen: dict[tuple[str, str], int] = {}
    found = []
    for edge in edges:
        ends = node_of(edge.sender), node_of(edge.receiver)
        number = seen[ends] = seen.get(ends, 0) + 1
        (x, y), (to_x, to_y) = (where[name] for name in ends)
        long = 0.25 if x == to_x and to_y - y > 2 else 0.0
        found.append(long + (0.22 * (number // 2) if number % 2 else -0.22 * (number // 2)))
    return found


def _size(loss: Any) -> float:
    return 0.0 if loss is None else max(0.0, loss.mean)


def _box(pad: float, edge: str = "none") -> dict[str, Any]:
    return {"boxstyle": f"round,pad={pad}", "facecolor": "white", "edgecolor": edge, "linewidth": 0.8}


def graphml(circuit: FoundCircuit) -> bytes:
    """The circuit as GraphML: its nodes with their layer, its edges with input, role, loss and attribution."""
    ElementTree.register_namespace("", GRAPHML)
    root = ElementTree.Element(f"{{{GRAPHML}}}graphml")
    keys = {
        "node": {"kind": "string", "layer": "int", "head": "int"},
        "edge": {"input": "string", "role": "string", "loss": "double", "attribution": "double"},
    }
    for owner, fields in keys.items():
        for name, kind in fields.items():
            given = {"id": name, "for": owner, "attr.name": name, "attr.type": kind}
            ElementTree.SubElement(root, f"{{{GRAPHML}}}key", given)
    graph = ElementTree.SubElement(root, f"{{{GRAPHML}}}graph", {"id": circuit.run, "edgedefault": "directed"})
    parts: dict[str, Sender | Receiver] = {}
    for one in circuit.edges:
        parts.setdefault(node_of(one.edge.sender), one.edge.sender)
        parts.setdefault(node_of(one.edge.receiver), one.edge.receiver)
    for name, part in parts.items():
        node = ElementTree.SubElement(graph, f"{{{GRAPHML}}}node", {"id": name})
        _data(node, {"kind": name.split()[0], "layer": part.layer, "head": part.head})
    for number, one in enumerate(circuit.edges):
        ends = {"source": node_of(one.edge.sender), "target": node_of(one.edge.receiver)}
        edge = ElementTree.SubElement(graph, f"{{{GRAPHML}}}edge", {"id": f"e{number}", **ends})
        loss = None if one.loss is None else round(one.loss.mean, 6)
        shown = {"input": one.edge.receiver.kind, "role": one.role or None, "loss": loss}
        _data(edge, shown | {"attribution": round(one.attribution, 6)})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _data(owner: ElementTree.Element, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if value is not None:
            ElementTree.SubElement(owner, f"{{{GRAPHML}}}data", {"key": name}).text = str(value)


def check_kind(kind: str) -> None:
    """Raises ConfigError for a kind of file that is not in `KINDS`."""
    if kind not in KINDS:
        raise ConfigError("output", f".{kind}", f"a name that ends in {', '.join(f'.{one}' for one in KINDS)}")


def circuit_bytes(circuit: FoundCircuit, kind: str) -> bytes:
    """The content of a file of a kind in `KINDS`.

    Raises:
        ConfigError: another kind.
    """
    check_kind(kind)
    if kind == "json":
        return (json.dumps(circuit.as_json(), indent=2, ensure_ascii=False) + "\n").encode()
    if kind == "graphml":
        return graphml(circuit)
    import matplotlib as mpl

    from miclab.statistics.style import DATES, STYLE, figure_bytes

    with mpl.rc_context(STYLE):
        return figure_bytes(circuit.plot().figure, kind, metadata=DATES[kind])
