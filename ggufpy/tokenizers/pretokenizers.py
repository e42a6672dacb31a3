"""The pre-tokenizers of BPE models as one table: `tokenizer.ggml.pre` in, regular expressions out.

A text is cut by the expressions of an entry one after the other: every match and every gap between matches
becomes a piece, and BPE never merges across pieces. Names, order and defaults: llama.cpp,
src/llama-vocab.cpp; where that file approximates the expression in the model's own tokenizer.json for lack
of Unicode classes, the model's own is used.
"""

from __future__ import annotations

from functools import cache

from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass

_CONTRACTION = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
_QWEN2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SYMBOLS}|{_SPACES}"
_QWEN35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
_PATHS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_TEKKEN = rf"{_CASED % ('', '')}|\p{{N}}|{_PATHS}|{_SPACES}"
_GPT4O = rf"{_CASED % ((_CONTRACTION + '?',) * 2)}|\p{{N}}{{1,3}}|{_PATHS}|{_SPACES}"
_KIMI = (
    r"\p{Han}+|"
    + (_CASED % ((_CONTRACTION + "?",) * 2)).replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]")
    + rf"|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
)
_LINES = r"[^\n]+|[\n]+"
_ASCII_WORD = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
_DEEPSEEK3 = rf"{_ASCII_WORD}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
_SPARK = rf"{_ASCII_WORD}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+"
_CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_ASIAN = (
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e00-\u0e7f"
    "\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_CJK_HANGUL = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
# Every cased letter up to Unicode 10.
_CASED_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377"
    "\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556"
    "\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a"
    "\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4"
    "\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f"
    "\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b"
    "\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_WIDE_PUNCTUATION = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002"
_NOT_SENTENCE_END = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_HALVING_SPACES = "|".join(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4)) + r"|\s{1,2}(?!\S)|\s"
_YOUTU_CJK = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    "|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
)


@dataclass(frozen=True)
class PreTokenizer:
    """How texts are cut before BPE, and what the models of that family do by default.

    `ignore_merges`: a whole piece that is in the vocabulary is taken as it is. `add_bos`: what holds when
    the file has no `tokenizer.ggml.add_bos_token`; `no_bos`: no id is taken for BOS that the file does not name.
    `cuts`: where it cuts for certain, so that long texts may be cut there first: before a space that follows another
    character ("spaces"), between a letter and a line end ("lines"), or "nowhere". `raw`: tokens are plain text in
    which spaces are U+2581, and what has no token becomes bytes <0xXX>. `line_ends`: a run of line ends that is a
    token is taken as it is. `words`: white space only separates, and is not tokenized.
    """

    names: tuple[str, ...]
    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    no_bos: bool = False
    cuts: str = "spaces"
    raw: bool = False
    line_ends: bool = False
    words: bool = False


TABLE: tuple[PreTokenizer, ...] = (
    PreTokenizer(("default",), (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    PreTokenizer(
        (
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
            "trillion",
            "granite-docling",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
        ),
        (_GPT2,),
    ),
    PreTokenizer(
        (
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ),
        (_LLAMA3,),
        ignore_merges=True,
        add_bos=True,
    ),
    PreTokenizer(("dbrx", "smaug-bpe"), (_LLAMA3,)),
    PreTokenizer(("chatglm-bpe",), (_LLAMA3,), no_bos=True),
    PreTokenizer(("glm4", "glm5"), (_LLAMA3,), ignore_merges=True, no_bos=True),
    PreTokenizer(
        (
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ),
        (_QWEN2,),
    ),
    PreTokenizer(("qwen35",), (_QWEN35,)),
    PreTokenizer(("falcon",), (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    PreTokenizer(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
        (r"\p{N}", _GPT2),
    ),
    PreTokenizer(
        ("deepseek-llm",),
        # The look-behind keeps `\s+$` linear on long runs of spaces; it matches the same places.
        (
            r"[\r\n]",
            rf"\s?[{_CASED_LETTERS}]+",
            rf"\s?[{_WIDE_PUNCTUATION}]+",
            r"(?<!\s)\s++$",
            _CJK_HANGUL,
            r"\p{N}+",
        ),
    ),
    PreTokenizer(("deepseek-coder",), (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_HANGUL, r"\p{N}")),
    PreTokenizer(("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"), (r"\p{N}{1,3}", _CJK, _DEEPSEEK3)),
    PreTokenizer(("spark2_5",), (r"\p{N}{1,3}", _CJK, _SPARK, r"\p{N}")),
    PreTokenizer(
        ("afmoe",),
        # Numbers in groups of three from their end.
        (r"\p{N}{1,3}(?=(?:\p{N}{3})*+(?!\p{N}))", _ASIAN, _DEEPSEEK3),
    ),
    PreTokenizer(("tiny_aya", "cohere2moe"), (r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O)),
    PreTokenizer(("superbpe",), (r"\p{N}+", r"(?=(\d{3})+(?!\d))"), cuts="nowhere"),
    PreTokenizer(("tekken",), (_TEKKEN,), ignore_merges=True, add_bos=True),
    PreTokenizer(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), (_GPT4O,)),
    PreTokenizer(("granite-embed-multi-97m",), (_GPT4O,), ignore_merges=True),
    PreTokenizer(("kimi-k2",), (_KIMI,)),
    PreTokenizer(("poro-chat", "bloom", "gpt3-finnish"), (_NOT_SENTENCE_END,)),
    PreTokenizer(("viking",), (_NOT_SENTENCE_END, r"\p{N}")),
    PreTokenizer(
        ("bailingmoe", "bailingmoe2", "llada-moe"),
        (rf"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|{_WORD}|\p{{N}}|{_SYMBOLS}|\s*[\r\n]|\s+(?!\S)|\s+",),
    ),
    PreTokenizer(
        ("seed-coder",),
        (rf"{_CONTRACTION}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",),
    ),
    PreTokenizer(("ufakzeka",), (rf"{_WORD}|\p{{N}}|{_SYMBOLS}|{_SPACES}",)),
    PreTokenizer(("laguna",), (_LINES, _QWEN2)),
    PreTokenizer(
        ("minicpm5",),
        (r"\p{N}{1,3}", rf"{_CONTRACTION}|{_WORD}|\p{{N}}+|{_SYMBOLS}|{_SPACES}"),
        ignore_merges=True,
    ),
    PreTokenizer(
        ("jais-2",),
        (rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|\s*[\r\n]+|{_HALVING_SPACES}",),
    ),
    PreTokenizer(
        ("exaone-moe",),
        (
            rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        ),
        cuts="lines",
    ),
    PreTokenizer(
        ("chameleon",),
        (
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            "([\\t\\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            _GPT2,
        ),
        add_bos=True,
    ),
    PreTokenizer(
        ("youtu",),
        (_YOUTU_CJK, _GPT4O.replace(r"\p{N}{1,3}", r"\p{N}")),
        ignore_merges=True,
    ),
)

# Those of vocabularies that are not of GPT-2's byte alphabet.
RAW: tuple[PreTokenizer, ...] = (
    PreTokenizer(
        ("gemma4", "granite-embed-multi-311m"), (_LINES,), add_bos=True, cuts="lines", raw=True, line_ends=True
    ),
    PreTokenizer(("sarvam-moe",), (_LINES,), cuts="lines", raw=True),
    PreTokenizer(("whitespace",), (), raw=True, words=True),
)


@cache
def _by_name() -> dict[str, PreTokenizer]:
    table: dict[str, PreTokenizer] = {}
    for entry in TABLE + RAW:
        for name in entry.names:
            if name in table:
                raise AssertionError(f"pre-tokenizer {name!r} is listed twice")
            table[name] = entry
    return table


def names() -> tuple[str, ...]:
    """Every name that `tokenizer.ggml.pre` (or --pre) may hold, sorted."""
    return tuple(sorted(_by_name()))


def get(name: str | None) -> PreTokenizer:
    """The entry called `name`; a file without `tokenizer.ggml.pre` (None or "") gets "default", as in
    llama.cpp.

    Raises GGUFError for a name that is not in the table.
    """
    entry = _by_name().get(name or "default")
    if entry is None:
        raise GGUFError(
            f"tokenizer.ggml.pre: unknown pre-tokenizer {name!r}; choose a similar one with --pre NAME "
            f"(pre= in Python), one of: {', '.join(names())}"
        )
    return entry


def refuse(chosen: str | None, kind: str) -> None:
    """GGUFError where a user has chosen a pre-tokenizer for a kind of tokenizer (tokenizer.ggml.model) without one."""
    if chosen not in (None, "default"):
        raise GGUFError(f"--pre {chosen}: a tokenizer of the kind {kind!r} has no pre-tokenizer; leave --pre out")
