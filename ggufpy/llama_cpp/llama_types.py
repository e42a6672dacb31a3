"""Shapes of requests and answers as TypedDicts, under llama-cpp-python's names; they describe and check nothing.

Facts: OpenAI's API of completions, chats and embeddings, and what ggufpy adds to it (`reasoning_content`). A field that
may be missing is in a class of its own with `total=False`, which Python 3.10 needs.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

JsonType = int | str | bool | list[Any] | dict[str, Any] | None
Finish = Literal["stop", "length", "tool_calls", "function_call"]

# -- embeddings --


class EmbeddingUsage(TypedDict):
    """How many tokens the texts have."""

    prompt_tokens: int
    total_tokens: int


class Embedding(TypedDict):
    """The vector of one text, or one for each of its tokens."""

    index: int
    object: str
    embedding: list[float] | list[list[float]]


class CreateEmbeddingResponse(TypedDict):
    """What `create_embedding` gives."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


# -- text completions --


class CompletionLogprobs(TypedDict):
    """Natural-log probabilities by token; None where nothing comes before a token."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(TypedDict):
    """One continuation; in a stream, a piece of it."""

    text: str
    index: int
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class CompletionUsage(TypedDict):
    """How many tokens a call took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class _CreateCompletionResponse(TypedDict):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]


class CreateCompletionResponse(_CreateCompletionResponse, total=False):
    """What `create_completion` gives; chunks of a stream have no usage."""

    usage: CompletionUsage


# -- functions --


class _Function(TypedDict):
    name: str


class ChatCompletionFunction(_Function, total=False):
    """A function that may be called, its parameters as a JSON schema."""

    description: str
    parameters: dict[str, JsonType]


ChatCompletionFunctions = ChatCompletionFunction
ChatCompletionToolFunction = ChatCompletionFunction
ChatCompletionFunctionParameters = dict[str, JsonType]


class ChatCompletionTool(TypedDict):
    """A function as a tool."""

    type: Literal["function"]
    function: ChatCompletionFunction


class ChatCompletionNamedToolChoiceFunction(TypedDict):
    """The function that must be called."""

    name: str


class ChatCompletionNamedToolChoice(TypedDict):
    """A choice that names the tool."""

    type: Literal["function"]
    function: ChatCompletionNamedToolChoiceFunction


ChatCompletionToolChoiceOption = Literal["none", "auto", "required"] | ChatCompletionNamedToolChoice


class ChatCompletionRequestFunctionCallOption(TypedDict):
    """The older form of a choice that names the function."""

    name: str


ChatCompletionFunctionCallOption = ChatCompletionRequestFunctionCallOption
ChatCompletionRequestFunctionCall = Literal["none", "auto"] | ChatCompletionRequestFunctionCallOption


class ChatCompletionMessageToolCallFunction(TypedDict):
    """A function with arguments, which are JSON text."""

    name: str
    arguments: str


class ChatCompletionMessageToolCall(TypedDict):
    """A call within an assistant's message."""

    id: str
    type: Literal["function"]
    function: ChatCompletionMessageToolCallFunction


ChatCompletionMessageToolCalls = list[ChatCompletionMessageToolCall]
ChatCompletionResponseFunctionCall = ChatCompletionMessageToolCallFunction
ChatCompletionRequestAssistantMessageFunctionCall = ChatCompletionMessageToolCallFunction

# -- messages of a request --


class ChatCompletionRequestMessageContentPartText(TypedDict):
    """A text within a content."""

    type: Literal["text"]
    text: str


class _ImageUrl(TypedDict):
    url: str


class ChatCompletionRequestMessageContentPartImageImageUrl(_ImageUrl, total=False):
    """An image; models are given text only here, and a request with one is refused."""

    detail: Literal["auto", "low", "high"]


class ChatCompletionRequestMessageContentPartImage(TypedDict):
    """An image within a content."""

    type: Literal["image_url"]
    image_url: str | ChatCompletionRequestMessageContentPartImageImageUrl


ChatCompletionRequestMessageContentPart = (
    ChatCompletionRequestMessageContentPartText | ChatCompletionRequestMessageContentPartImage
)


class ChatCompletionRequestSystemMessage(TypedDict):
    """What the model is told before the chat."""

    role: Literal["system"]
    content: str | None


class ChatCompletionRequestUserMessage(TypedDict):
    """What the user says."""

    role: Literal["user"]
    content: str | list[ChatCompletionRequestMessageContentPart] | None


class _Assistant(TypedDict):
    role: Literal["assistant"]


class ChatCompletionRequestAssistantMessage(_Assistant, total=False):
    """What the model said, or which functions it called."""

    content: str | None
    tool_calls: ChatCompletionMessageToolCalls
    function_call: ChatCompletionRequestAssistantMessageFunctionCall


class ChatCompletionRequestToolMessage(TypedDict):
    """What a call gave."""

    role: Literal["tool"]
    content: str | None
    tool_call_id: str


class ChatCompletionRequestFunctionMessage(TypedDict):
    """The older form of what a call gave."""

    role: Literal["function"]
    content: str | None
    name: str


ChatCompletionRequestMessage = (
    ChatCompletionRequestSystemMessage
    | ChatCompletionRequestUserMessage
    | ChatCompletionRequestAssistantMessage
    | ChatCompletionRequestToolMessage
    | ChatCompletionRequestFunctionMessage
)


class _ResponseFormat(TypedDict):
    type: Literal["text", "json_object", "json_schema"]


class ChatCompletionRequestResponseFormat(_ResponseFormat, total=False):
    """What an answer must look like: a schema beside "json_object", as llama-cpp-python has it, or OpenAI's
    "json_schema"."""

    schema: JsonType
    json_schema: dict[str, Any]


# -- answers of a chat --


class ChatCompletionTopLogprobToken(TypedDict):
    """A token that might have come."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatCompletionLogprobToken(ChatCompletionTopLogprobToken):
    """A token that came."""

    top_logprobs: list[ChatCompletionTopLogprobToken]


class _Logprobs(TypedDict):
    content: list[ChatCompletionLogprobToken] | None


class ChatCompletionLogprobs(_Logprobs, total=False):
    """The tokens of an answer."""

    refusal: list[ChatCompletionLogprobToken] | None


class _ResponseMessage(TypedDict):
    content: str | None
    role: Literal["assistant", "function"]


class ChatCompletionResponseMessage(_ResponseMessage, total=False):
    """The answer; `reasoning_content` is what a model thought before it."""

    tool_calls: ChatCompletionMessageToolCalls
    function_call: ChatCompletionResponseFunctionCall
    reasoning_content: str


class ChatCompletionResponseChoice(TypedDict):
    """One answer."""

    index: int
    message: ChatCompletionResponseMessage
    logprobs: ChatCompletionLogprobs | None
    finish_reason: Finish | None


class CreateChatCompletionResponse(TypedDict):
    """What `create_chat_completion` gives."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatCompletionResponseChoice]
    usage: CompletionUsage


# -- streamed answers --


class ChatCompletionMessageToolCallChunkFunction(TypedDict):
    """A piece of a call: its name, then its arguments."""

    name: str | None
    arguments: str


class _ToolCallChunk(TypedDict):
    index: int
    type: Literal["function"]
    function: ChatCompletionMessageToolCallChunkFunction


class ChatCompletionMessageToolCallChunk(_ToolCallChunk, total=False):
    """A piece of the call with this index; the first one has its id."""

    id: str


class ChatCompletionStreamResponseDeltaEmpty(TypedDict):
    """Nothing more is said."""


class ChatCompletionStreamResponseDeltaFunctionCall(TypedDict):
    """The older form of a piece of a call."""

    name: str
    arguments: str


class ChatCompletionStreamResponseDelta(TypedDict, total=False):
    """What comes next in an answer."""

    content: str | None
    function_call: ChatCompletionStreamResponseDeltaFunctionCall | None
    tool_calls: list[ChatCompletionMessageToolCallChunk] | None
    role: Literal["system", "user", "assistant", "tool"] | None
    reasoning_content: str


class _StreamChoice(TypedDict):
    index: int
    delta: ChatCompletionStreamResponseDelta | ChatCompletionStreamResponseDeltaEmpty
    finish_reason: Finish | None


class ChatCompletionStreamResponseChoice(_StreamChoice, total=False):
    """A piece of one answer."""

    logprobs: ChatCompletionLogprobs | None


class CreateChatCompletionStreamResponse(TypedDict):
    """A chunk of a streamed chat completion."""

    id: str
    model: str
    object: Literal["chat.completion.chunk"]
    created: int
    choices: list[ChatCompletionStreamResponseChoice]


# -- other names of the same --

EmbeddingData = Embedding
CompletionChunk = CreateCompletionResponse
Completion = CreateCompletionResponse
CreateCompletionStreamResponse = CreateCompletionResponse
ChatCompletionMessage = ChatCompletionResponseMessage
ChatCompletionChoice = ChatCompletionResponseChoice
ChatCompletion = CreateChatCompletionResponse
ChatCompletionChunkDeltaEmpty = ChatCompletionStreamResponseDeltaEmpty
ChatCompletionChunkChoice = ChatCompletionStreamResponseChoice
ChatCompletionChunkDelta = ChatCompletionStreamResponseDelta
ChatCompletionChunk = CreateChatCompletionStreamResponse
ChatCompletionStreamResponse = CreateChatCompletionStreamResponse
ChatCompletionResponseFunction = ChatCompletionFunction
ChatCompletionFunctionCall = ChatCompletionResponseFunctionCall

__all__ = [
    "ChatCompletion", "ChatCompletionChoice", "ChatCompletionChunk", "ChatCompletionChunkChoice",
    "ChatCompletionChunkDelta", "ChatCompletionChunkDeltaEmpty", "ChatCompletionFunction",
    "ChatCompletionFunctionCall", "ChatCompletionFunctionCallOption", "ChatCompletionFunctionParameters",
    "ChatCompletionFunctions", "ChatCompletionLogprobToken", "ChatCompletionLogprobs", "ChatCompletionMessage",
    "ChatCompletionMessageToolCall", "ChatCompletionMessageToolCallChunk",
    "ChatCompletionMessageToolCallChunkFunction", "ChatCompletionMessageToolCallFunction",
    "ChatCompletionMessageToolCalls", "ChatCompletionNamedToolChoice", "ChatCompletionNamedToolChoiceFunction",
    "ChatCompletionRequestAssistantMessage", "ChatCompletionRequestAssistantMessageFunctionCall",
    "ChatCompletionRequestFunctionCall", "ChatCompletionRequestFunctionCallOption",
    "ChatCompletionRequestFunctionMessage", "ChatCompletionRequestMessage", "ChatCompletionRequestMessageContentPart",
    "ChatCompletionRequestMessageContentPartImage", "ChatCompletionRequestMessageContentPartImageImageUrl",
    "ChatCompletionRequestMessageContentPartText", "ChatCompletionRequestResponseFormat",
    "ChatCompletionRequestSystemMessage", "ChatCompletionRequestToolMessage", "ChatCompletionRequestUserMessage",
    "ChatCompletionResponseChoice", "ChatCompletionResponseFunction", "ChatCompletionResponseFunctionCall",
    "ChatCompletionResponseMessage", "ChatCompletionStreamResponse", "ChatCompletionStreamResponseChoice",
    "ChatCompletionStreamResponseDelta", "ChatCompletionStreamResponseDeltaEmpty",
    "ChatCompletionStreamResponseDeltaFunctionCall", "ChatCompletionTool", "ChatCompletionToolChoiceOption",
    "ChatCompletionToolFunction", "ChatCompletionTopLogprobToken", "Completion", "CompletionChoice",
    "CompletionChunk", "CompletionLogprobs", "CompletionUsage", "CreateChatCompletionResponse",
    "CreateChatCompletionStreamResponse", "CreateCompletionResponse", "CreateCompletionStreamResponse",
    "CreateEmbeddingResponse", "Embedding", "EmbeddingData", "EmbeddingUsage", "JsonType",
]  # fmt: skip
