"""The largest differences that comparisons with transformers see, as a table.

GGUFPY_DIFFERENCES=seen.jsonl pytest -m oracle
python tests/differences.py seen.jsonl
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from pathlib import Path


def noted(name: str, what: str, difference: float) -> float:
    """Keeps a difference where GGUFPY_DIFFERENCES says, a line each, so that processes can share the file."""
    if path := os.environ.get("GGUFPY_DIFFERENCES"):
        with open(path, "a", encoding="utf8") as file:
            file.write(json.dumps([name, what, difference]) + "\n")
    return difference


def table(lines: list[str]) -> str:
    """A row a name: of how many comparisons, and the largest difference of each kind."""
    seen: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        name, what, difference = json.loads(line)
        seen[name][what].append(difference)
    kinds = sorted({what for of in seen.values() for what in of})
    rows = [["", "compared", *kinds], ["---"] * (2 + len(kinds))]
    for name, of in sorted(seen.items()):
        largest = [f"{max(of[what]):.1e}" if what in of else "" for what in kinds]
        rows.append([name, str(max(map(len, of.values()))), *largest])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(table(Path(sys.argv[1]).read_text(encoding="utf8").splitlines()))
