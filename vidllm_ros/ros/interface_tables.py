# SPDX-License-Identifier: Apache-2.0
"""Prints the tables of docs/ros_interface.md from the code.

After changing a topic, service, profile or parameter, paste what `python -m` on this file prints
between the marks of that page; a test compares them. Next: topics.py, parameters.py and qos.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vidllm_ros.ros import topics
from vidllm_ros.ros.parameters import Change, Spec, Value, defaults, specs
from vidllm_ros.ros.qos import PROFILES

_CHANGE = {Change.LIVE: "live", Change.CONFIGURE: "configure", Change.FIXED: "read-only"}
_TYPES = {bool: "bool", int: "integer", float: "double", str: "string"}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def topic_table(listed: Sequence[topics.Topic]) -> str:
    """Table topics: name, type, profile, note."""
    rows = [[f"`{t.name}`", topics.type_name(t.type), t.qos, t.note] for t in listed]
    return _table(["topic", "type", "QoS", "note"], rows)


def service_table() -> str:
    """Table the services."""
    rows = [[f"`{s.name}`", topics.type_name(s.type), s.note] for s in topics.SERVICES]
    return _table(["service", "type", "note"], rows)


def qos_table() -> str:
    """Table the quality-of-service profiles."""
    rows = [
        [name, reliability.name.lower(), durability.name.lower(), f"keep last {depth}"]
        for name, (reliability, durability, depth) in PROFILES.items()
    ]
    return _table(["QoS", "reliability", "durability", "history"], rows)


def _allowed(spec: Spec) -> str:
    if spec.choices:
        return ", ".join(spec.choices)
    if spec.low is not None and spec.high is not None:
        return f"{spec.low:g} to {spec.high:g}"
    return spec.pattern_words or "any"


def _default(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def parameter_table() -> str:
    """Table the parameters."""
    rows = [
        [
            f"`{name}`",
            _TYPES[type(defaults()[name])],
            f"`{_default(defaults()[name])}`",
            _allowed(spec),
            _CHANGE[spec.change],
            spec.description,
        ]
        for name, spec in specs().items()
    ]
    return _table(["parameter", "type", "default", "allowed", "change", "meaning"], rows)


def tables() -> dict[str, str]:
    """Name every table of the page with its text."""
    return {
        "inputs": topic_table(topics.INPUTS),
        "outputs": topic_table(topics.OUTPUTS),
        "services": service_table(),
        "qos": qos_table(),
        "parameters": parameter_table(),
    }


def replace_tables(page: str) -> str:
    """Return the page with each table put between its marks, `<!-- NAME -->` and `<!-- end -->`.

    Raises:
        ValueError: the page lacks a table's marks.
    """
    for name, table in tables().items():
        begin, end = f"<!-- {name} -->\n", "\n<!-- end -->"
        if begin not in page:
            raise ValueError(f"page: expected the mark {begin.strip()}, got none; put it back")
        before, rest = page.split(begin, 1)
        _, after = rest.split(end, 1)
        page = f"{before}{begin}{table}{end}{after}"
    return page


if __name__ == "__main__":
    for title, text in tables().items():
        print(f"<!-- {title} -->\n{text}\n<!-- end -->\n")
