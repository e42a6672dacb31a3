"""Embeddings and scores of a loaded model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ggufpy.api.openai.model import Record
from ggufpy.errors import GGUFError
from ggufpy.generate.loaded import LoadedModel
from ggufpy.support import checks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.generate.embeddings import Embedder

    Floats = NDArray[np.float32]


class Embeddings(LoadedModel):
    """What makes vectors of texts. `_pooling` is what calls take that name none; None: as the model says."""

    _pooling: str | None = None

    def embed(
        self, input: str | Sequence[str], normalize: bool = False, truncate: bool = False,
        return_count: bool = False, *, pooling: str | None = None,
    ) -> Any:  # fmt: skip
        """A vector for a text, a list of them for a list of texts; with `pooling` "none" one for each token of a text.

        `pooling` is "mean", "cls" (the first token), "last" or "none"; None for what the model says, and where it says
        nothing the last token of a model whose tokens see only what is before them, the mean of another. A model that
        ranks texts ("rank") has scores in place of a vector. `normalize` makes vectors 1 long. A text longer than the
        context raises GGUFError; with `truncate` its beginning counts. `return_count`: with how many tokens were read.
        """
        rows, count = self._embeddings(input, normalize, pooling, truncate)
        embedder = self._embedder()
        single = isinstance(input, str) and embedder.pooling(self._pooling if pooling is None else pooling) != "none"
        found = rows[0] if single else rows
        return (found, count) if checks.flag("return_count", return_count) else found

    def create_embedding(
        self, input: str | Sequence[str], model: str | None = None, *, normalize: bool = True,
        pooling: str | None = None,
    ) -> Record:  # fmt: skip
        """As `embed`, in OpenAI's shape, vectors 1 long; `model` is the name in the answer."""
        from ggufpy.api.openai import embeddings

        name = self.name if model is None else checks.text("model", model)
        return embeddings.embeddings(name, *self._embeddings(input, normalize, pooling, False))

    def rank(self, query: str, documents: Sequence[str]) -> list[float]:
        """How well each document answers a query, by a model that ranks texts: its first score, in their order.

        Raises GGUFError for another model, and for a pair that is longer than the context.
        """
        checks.text("query", query)
        texts = checks.items("documents", documents, "a list of texts")
        return [self.score(query, checks.text(f"documents[{i}]", text))[0] for i, text in enumerate(texts)]

    # -- one text at a time, as a server wants it --

    def score(self, query: str, document: str) -> tuple[float, int]:
        """How well a document answers a query, as `rank` has it, and how many tokens both have."""
        embedder = self._embedder()
        if self.engine.model.plan.classifier is None:
            raise GGUFError("the model has no classifier (cls.weight) to rank texts with: use a reranker")
        tokens = self._pair(query, document)
        self._check_length(tokens)
        return float(embedder.of_tokens(tokens, embedder.pooling("rank"))[0, 0]), len(tokens)

    def embedding_tokens(self, text: str) -> list[int]:
        """The tokens of a text that is to be a vector."""
        return self.tokenizer.encode(text, add_special=True, parse_special=True)

    def vector(self, tokens: Sequence[int], *, normalize: bool = True, dimensions: int | None = None) -> Floats:
        """The vector of a text, float32 (width,), pooled as the model says; with `dimensions` its first ones.

        Raises GGUFError for a model that ranks texts or pools nothing, a text that is longer than the context, and for
        more dimensions than there are. Cutting is for models that were trained for it (Matryoshka embeddings).
        """
        import numpy as np

        from ggufpy.generate.embeddings import of_length_one

        embedder = self._embedder()
        kind = embedder.pooling(self._pooling)
        if kind in ("rank", "none"):
            does = "ranks texts (POST /v1/rerank)" if kind == "rank" else "has a vector for each token"
            raise GGUFError(f"the model {does}, and none for a text")
        self._check_length(tokens)
        row = embedder.of_tokens(tokens, kind)
        width = row.shape[1]
        if dimensions is not None and dimensions > width:
            raise GGUFError(f"dimensions is {dimensions}, and the model's vectors have {width:,}")
        row = row[:, :dimensions]
        made: Floats = (of_length_one(row) if normalize else row)[0].astype(np.float32)
        return made

    def _pair(self, query: str, document: str) -> list[int]:
        """A query and a document as one text: by the file's template for it, else one behind the other as the model's
        tokenizer frames pairs (llama.cpp: tools/server, format_prompt_rerank)."""
        tokenizer = self.tokenizer
        template = self.metadata.get("tokenizer.chat_template.rerank")
        if isinstance(template, str):
            parts = template.replace("{document}", "\0").replace("{query}", query).replace("\0", document)
            return tokenizer.encode(parts, add_special=True, parse_special=True)
        return tokenizer.pair(query, document)

    def _check_length(self, tokens: Sequence[int]) -> None:
        count, most = len(tokens), self.n_ctx()
        if count > most:
            told = "shorten it, or load the model with a larger n_ctx (-c)"
            raise GGUFError(f"the text is {count} tokens and the context holds {most}: {told}")

    def _embedder(self) -> Embedder:
        from ggufpy.generate.embeddings import Embedder

        tensors = self._parts.file.tensors
        return Embedder(self.loop, lambda weight: tensors[weight.name].to_numpy(), self._parts.scales)

    def pooling(self) -> str:
        """How one vector is made of a text's, as the model says or as it was loaded: "mean", "cls", "last", "rank" for
        scores, or "none"."""
        return self._embedder().pooling(self._pooling)

    def rows(self, tokens: Sequence[int]) -> NDArray[np.float64]:
        """The vector of a text, (1, width), or one for each of its tokens where nothing is pooled, not normalized.

        Raises GGUFError for a text that is empty or longer than the context.
        """
        return self._embedder().of_tokens(tokens, self.pooling())

    def _embeddings(
        self, given: str | Sequence[str], normalize: bool, pooling: str | None, truncate: bool
    ) -> tuple[list[list[float]], int]:
        """The rows of all texts, and how many tokens these have."""
        pooling = self._pooling if pooling is None else pooling
        return self._embedder().of_texts(self.tokenizer, given, pooling, normalize, truncate)
