"""Tools in a loop: the model calls functions of this program until it has what it needs, then it answers.

Usage: python examples/tools_loop.py [MODEL [QUESTION]]

The model's chat template says how calls are written. One that knows of no tools, as SmolLM2's, is asked in a format
that any model can follow (`chat_format`); do not expect a small one to call them wisely.
"""

import json
import sys

import ggufpy

MOST = 5  # calls, after which it has to answer


def convert(amount: float, unit: str) -> str:
    """Miles in kilometres, or kilometres in miles."""
    if unit == "miles":
        return f"{amount:g} miles are {amount * 1.609344:.1f} kilometres."
    return f"{amount:g} kilometres are {amount / 1.609344:.1f} miles."


def population(city: str) -> str:
    """People who live in a city."""
    known = {"paris": 2_100_000, "oslo": 720_000, "porto": 250_000}
    if city.lower() not in known:
        raise ValueError(f"nothing is known of {city}; there are {', '.join(known)}")
    return f"The population of {city} is {known[city.lower()]:,}."


FUNCTIONS = {"convert": convert, "population": population}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "convert",
            "description": "Miles in kilometres, or kilometres in miles",
            "parameters": {
                "type": "object",
                "properties": {"amount": {"type": "number"}, "unit": {"enum": ["miles", "kilometres"]}},
                "required": ["amount", "unit"],
                "additionalProperties": False,
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "population",
            "description": "How many people live in a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 40}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    },
]


def call(function: dict) -> str:
    """What a call gives. What is wrong with one is told to the model, which may call again."""
    try:
        return FUNCTIONS[function["name"]](**json.loads(function["arguments"]))
    except (KeyError, TypeError, ValueError) as error:
        return f"error: {error}"


def shown(function: dict) -> str:
    """A call for people, the same text for the same arguments."""
    try:
        return f"{function['name']}({json.dumps(json.loads(function['arguments']))})"
    except ValueError:  # cut short, by max_tokens
        return f"{function['name']}({function['arguments']})"


def answer(llm: ggufpy.Llama, question: str) -> str:
    """The model's answer, after as many calls as it makes."""
    messages = [{"role": "user", "content": question}]
    results: dict[str, str] = {}  # by call
    again = False
    while True:
        choice = llm.create_chat_completion(
            messages,
            max_tokens=200,
            temperature=0.0,
            tools=TOOLS,
            tool_choice="none" if again else "auto",
            parallel_tool_calls=False,  # one call a turn; the loop below would make several too
        )["choices"][0]
        message = choice["message"]
        if choice["finish_reason"] != "tool_calls":
            return message["content"] or ""
        calls = {made["id"]: made["function"] for made in message["tool_calls"]}
        keys = {i: shown(function) for i, function in calls.items()}
        if not set(keys.values()).isdisjoint(results) or len(results) >= MOST:
            again = True  # it goes in circles, as small models do: what it knows by now must do
            continue
        messages.append(message)
        for i, function in calls.items():
            results[keys[i]] = call(function)
            print(f"{keys[i]} -> {results[keys[i]]}")
            messages.append({"role": "tool", "tool_call_id": i, "content": results[keys[i]]})


def main(model: str = "smollm2", question: str = "How many people live in Paris?") -> None:
    chat_format = "chatml-function-calling" if model == "smollm2" else None
    with ggufpy.Llama(model, n_ctx=2048, chat_format=chat_format) as llm:
        print(answer(llm, question))


if __name__ == "__main__":
    main(*sys.argv[1:3])
