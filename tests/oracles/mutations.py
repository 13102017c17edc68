"""Spoiling files at random: json values with junk in any place, and bytes flipped, cut, doubled; from a seed alone.

mutate_json(content, random.Random(0)); mutate_bytes(data, random.Random(0))
"""

import copy
import json
import random
from typing import Any

JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 7, 10, 2.5, 0.5, -0.0, 1e-300, 1e300, 1e308, 2**31, 2**53, 2**63, -(2**63), 2**64),
    *(10**30, 10**400, float("nan"), float("inf"), float("-inf"), "", "a", "0", "1", "..", "/x", "../x", "a/b", "p0.png"),
    *("\n\ud800", "é" * 300, "\0", "\x1b[2J", "NaN", [], [1], [[]], [1, 2, 3, 4], [0, 0, 0, 0], [1, 2, -3, 4], [None] * 4),
    *({}, {"id": 1}, {"id": {}}, {"x": [1]}, ["a", "b", "c", "d"], [[1, 2, 3, 4]], [1e200, 1e200, 1e200, 1e200]),
)  # fmt: skip


FIELDS = ("id", "x", "iscrowd", "area", "score", "ignore", "bbox_mode", "attributes", "segmentation", "file_name")


def _nodes(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a json value: (container, key)."""
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [(value, key) for key, _ in items] + [node for _, inner in items for node in _nodes(inner)]


def mutate_json(value: Any, generator: random.Random) -> Any:
    """A copy of a json value with one to five changes: junk, another place's value, an entry gone, doubled or new."""
    holder = [copy.deepcopy(value)]
    for _ in range(generator.choice([1, 1, 1, 2, 3, 5])):
        nodes = _nodes(holder)
        container, key = generator.choice(nodes)
        kind = generator.random()
        if kind < 0.5:
            container[key] = copy.deepcopy(generator.choice(JUNK))
        elif kind < 0.65:
            other, place = generator.choice(nodes)
            container[key] = copy.deepcopy(other[place])
        elif kind < 0.75 and container is not holder:
            del container[key]
        elif kind < 0.85 and isinstance(container, list):
            container.insert(generator.randrange(len(container) + 1), copy.deepcopy(container[key]))
        elif kind < 0.92 and isinstance(container[key], dict):
            container[key][generator.choice(FIELDS)] = generator.choice(JUNK)
        else:
            container[key] = [container[key]]
        if not holder:
            return None
    return holder[0]


def json_bytes(value: Any) -> bytes:
    """A json value as a file would hold it, nan and infinity included."""
    return json.dumps(value).encode()


def mutate_bytes(data: bytes, generator: random.Random) -> bytes:
    """A copy with one to eight changes: bits flipped, bytes set, stretches cut, doubled, moved, or zeroed; or its end cut."""
    spoilt = bytearray(data)
    for _ in range(generator.choice([1, 1, 2, 4, 8])):
        if not spoilt:
            break
        # headers decide more than pixels and weights do, so half of the changes go there
        reach = len(spoilt) if generator.random() < 0.5 else min(len(spoilt), 400)
        place, length = generator.randrange(reach), generator.choice([1, 2, 4, 16, 200])
        kind = generator.randrange(7)
        if kind == 0:
            spoilt[place] ^= 1 << generator.randrange(8)
        elif kind == 1:
            spoilt[place] = generator.choice([0, 1, 127, 128, 255, generator.randrange(256)])
        elif kind == 2:
            del spoilt[place : place + length]
        elif kind == 3:
            spoilt[place:place] = spoilt[place : place + length]
        elif kind == 4:
            source = generator.randrange(len(spoilt))
            spoilt[place : place + length] = spoilt[source : source + length]
        elif kind == 5:
            spoilt[place : place + length] = bytes(len(spoilt[place : place + length]))
        else:
            del spoilt[place:]
    return bytes(spoilt)
