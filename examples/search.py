"""Search by meaning: texts and a question become vectors, and the nearest texts are shown.

Usage: python examples/search.py [-m MODEL] QUESTION [FILE...]

Files are taken apart at empty lines; without files there are a few texts here. Models that were trained for it make the
best vectors (bge, EmbeddingGemma, nomic-embed, ...; what some want before a question, as "search_query: ", is yours to
add). One that only writes text is asked what a text means in a word, and the state that it would say that from is taken
(PromptEOL, https://arxiv.org/abs/2307.16645).
"""

import argparse
from pathlib import Path

import numpy as np

import ggufpy

TEXTS = [
    "The cat sleeps on the sofa all afternoon.",
    "Interest rates rose again, and banks lend less.",
    "Whisk the eggs with sugar, then fold in the flour.",
    "The rocket reached orbit nine minutes after launch.",
    "Python lists grow as you append to them.",
]


def vectors(llm: ggufpy.Llama, texts: list[str]) -> np.ndarray:
    """(texts, width), each 1 long."""
    if f"{llm.metadata['general.architecture']}.pooling_type" not in llm.metadata:
        texts = [f'The text "{text}" in one word means:' for text in texts]
    return np.array(llm.embed(texts, normalize=True, truncate=True), np.float32)


def cosines(rows: np.ndarray, one: np.ndarray) -> np.ndarray:
    """(rows,) of the angles between rows (rows, width) and one (width,)."""
    return rows @ one / (np.linalg.norm(rows, axis=1) * np.linalg.norm(one))


def main(model: str, question: str, files: list[Path]) -> None:
    parts = [part.strip() for file in files for part in file.read_text("utf-8").split("\n\n")]
    texts = [part for part in parts if part] or TEXTS
    with ggufpy.Llama(model, n_ctx=512, embedding=True) as llm:
        known = vectors(llm, texts)  # keep these: they are the same for every question
        asked = vectors(llm, [question])[0]
    mean = known.mean(axis=0) if len(known) > 2 else 0.0  # what all have in common says nothing
    near = cosines(known - mean, asked - mean)
    for i in np.argsort(-near)[:3]:
        print(f"{near[i]:6.3f}  {texts[i][:100]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2")
    parser.add_argument("question")
    parser.add_argument("files", nargs="*", type=Path)
    args = parser.parse_args()
    main(args.model, args.question, args.files)
