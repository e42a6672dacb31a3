"""`python tests/batch_program.py IN OUT`: `ggufpy batch` around a model that takes its time, to be killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from responding import responding

from ggufpy.llm import Llama
from ggufpy.server.batch.answers import Answers
from ggufpy.server.batch.lines import read, survey
from ggufpy.server.batch.run import Outcome, answer

STEP = 0.002  # seconds


def batch(given: Path, out: Path, model: Llama | None = None) -> Outcome:
    """Answers a file, by a model that is closed then."""
    wanted, llm = survey(given), responding(n_parallel=4) if model is None else model
    with Answers(out, wanted) as answers:
        return answer(llm, "fake", read(given), answers, lambda stage, done, total: None, len(wanted.ids))


if __name__ == "__main__":
    slow = responding(n_parallel=4)
    slow.engine.before = lambda: time.sleep(STEP)  # type: ignore[attr-defined]
    batch(Path(sys.argv[1]), Path(sys.argv[2]), slow)
