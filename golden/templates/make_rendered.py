#!/usr/bin/env python3
"""What Jinja2 makes of conversations with the two chat templates of the family.

Writes rendered.json beside this file; run by hand, needs Jinja2 only. The environment is the one
that transformers builds for chat templates. Each case holds the template's file name, the request, and
the prompt or the template's own error message.
"""

import json
import pathlib
import random

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent
TEMPLATES = ["chat_template.jinja", "chat_template_nothink.jinja"]


def compiled(name):
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env.from_string((HERE / name).read_text(encoding="utf-8"))


def user(content):
    return {"role": "user", "content": content}


def system(content):
    return {"role": "system", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def tool(content):
    return {"role": "tool", "content": content}


def call(name, arguments=None, wrapped=True):
    function = {"name": name}
    if arguments is not None:
        function["arguments"] = arguments
    return {"type": "function", "function": function} if wrapped else function


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'Tell the weather of a city <b>"now"</b> & \'here\', in °C — 天气 🚀\n\tor not.\u007f\u0001',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Zürich", "北京", "Ålesund"], "default": None},
                "days": {"type": "integer", "minimum": 0, "maximum": 1e16, "exclusiveMinimum": -1.5},
                "zoom": {"type": "number", "multipleOf": 1e-05, "default": 0.1},
                "flat": {"type": "boolean", "default": False},
                "nested": {"type": "array", "items": {"anyOf": [{}, [], [[]], [{"z": 1, "a": True}]]}},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
    "strict": True,
}

ARGUMENTS = {
    "text": "plain 'text' with \"quotes\", <b> and\nlines — 北京",
    "yes": True,
    "no": False,
    "nothing": None,
    "whole": 42,
    "negative": -7,
    "large": 18446744073709551615,
    "one": 1.0,
    "tenth": 0.1,
    "big": 1e16,
    "small": 1e-05,
    "tiny": 2.5e-308,
    "below": 9007199254740993.0,
    "list": [1, "two", None, True, 3.0, {"k": "é"}],
    "object": {"z": 1, "a": {"deep": [[], {}]}, "nul": "\u0000\u001f\u2028"},
    "empty list": [],
    "empty object": {},
    "empty": "",
    "number in text": "1.0",
}

IMAGE = {"type": "image", "image": "file.png"}
IMAGE_URL = {"type": "image_url", "image_url": {"url": "data:"}}
VIDEO = {"type": "video", "video": "file.mp4"}


def text(t):
    return {"type": "text", "text": t}


def shapes():
    """Name, messages and other inputs of each hand-made case."""
    yield "one question", [user("Hello")], {}
    yield "white space is trimmed", [user(" \n\t Hello \u00a0\u2003\u001c\u0085\n")], {}
    yield "zero-width space is no white space", [user("\u200bHello\ufeff")], {}
    yield "html is not escaped", [user("<a href='x'>\"&amp;\"</a>")], {}
    yield "empty question", [user("")], {}
    yield "content is null", [user(None)], {}
    yield "content is absent", [{"role": "user"}], {}
    yield "system", [system(" Be brief. \n"), user("Hello")], {}
    yield "empty system", [system(""), user("Hello")], {}
    yield "system as a list", [system([text("Be "), text("brief.")]), user("Hello")], {}
    yield "no generation prompt", [user("Hello"), assistant("Hi.")], {"add_generation_prompt": False}
    yield "several turns", [user("a"), assistant("b"), user("c"), assistant("d"), user("e")], {}

    thought = "<think>\nlet me see\n\nyes\n</think>\n\nAnswer"
    yield "earlier reasoning in the content is dropped", [user("a"), assistant(thought), user("c")], {}
    yield "last reasoning in the content stays", [user("a"), assistant(thought)], {}
    yield "reasoning without a beginning", [user("a"), assistant("hm\n</think>\n\nAnswer")], {}
    yield "reasoning without an end", [user("a"), assistant("<think>\nhm")], {}
    yield "two ends of reasoning", [user("a"), assistant("x</think>y</think>\nz")], {}
    yield "reasoning apart", [user("a"), assistant("b", reasoning_content=" because \n")], {}
    yield "earlier reasoning apart", [user("a"), assistant("b", reasoning_content="x"), user("c")], {}
    yield "empty reasoning", [user("a"), assistant("b", reasoning_content="")], {}
    yield "reasoning is null", [user("a"), assistant("b</think>c", reasoning_content=None)], {}

    yield "tools", [user("Weather?")], {"tools": [WEATHER]}
    yield "tools and system", [system("Be brief."), user("Weather?")], {"tools": [WEATHER, call("f")]}
    yield "tools and empty system", [system("  "), user("Weather?")], {"tools": [WEATHER]}
    yield "tools that are no objects", [user("x")], {"tools": ["text", 1, 1.0, True, None, [1.5]]}
    everything = assistant("", tool_calls=[call("everything", ARGUMENTS)])
    yield "a call with every kind of argument", [user("x"), everything], {}
    yield "a call after text", [user("x"), assistant("Let me.", tool_calls=[call("f", {"a": 1})])], {}
    two = [call("f", {"a": 1}), call("g", {"b": "2"}, wrapped=False), call("h", {}), call("i")]
    yield "several calls", [user("x"), assistant(None, tool_calls=two)], {}
    yield "no calls", [user("x"), assistant("y", tool_calls=[])], {}
    yield "calls are null", [user("x"), assistant("y", tool_calls=None)], {}
    loop = [
        user("Weather?"),
        assistant("", reasoning_content="need it", tool_calls=[call("get_weather", {"city": "Verona"})]),
        tool("sunny"),
    ]
    yield "a tool result", loop, {"tools": [WEATHER]}
    yield "two tool results", [*loop, tool(" rainy \n")], {"tools": [WEATHER]}
    yield "reasoning within a tool loop stays", [*loop, assistant("Sunny.", reasoning_content="ok")], {}
    yield "and goes with the next question", [*loop, assistant("Sunny."), user("Thanks")], {}
    yield "a tool result as a list", [user("x"), tool([text("a"), IMAGE])], {}
    yield "a tool result in front", [tool("a"), user("x")], {}
    disguised = user("<tool_response>\nsunny\n</tool_response>")
    yield "a tool result as a user message", [user("x"), assistant("y", reasoning_content="r"), disguised], {}

    pictures = user([text("What is "), IMAGE, text(" and "), IMAGE_URL, VIDEO, {"text": "?"}])
    yield "pictures", [pictures], {}
    yield "numbered pictures", [pictures, assistant("x"), pictures], {"add_vision_id": True}
    yield "no pictures but numbers", [user("x")], {"add_vision_id": True}
    yield "a list of nothing", [user([])], {}
    yield "text that is no text", [user([{"text": 1.0}, {"text": True}, {"text": None}, {"text": 1e16}])], {}
    yield "text that is a list", [user([{"text": [1, "it's", None, {"a": "\n"}]}])], {}

    yield "error: nothing", [], {}
    yield "error: no question", [system("x")], {}
    yield "error: only tool results", [disguised], {}
    yield "error: system in second place", [user("x"), system("y")], {}
    yield "error: picture in system", [system([IMAGE]), user("x")], {}
    yield "error: video in system", [system([VIDEO]), user("x")], {}
    yield "error: unknown role", [user("x"), {"role": "critic", "content": "y"}], {}
    yield "error: unknown item", [user([{"type": "audio"}])], {}
    yield "error: content is a number", [user(5)], {}
    yield "error: content is an object", [user({"text": "x"})], {}


def random_text(rng):
    parts = ["a", "Hello", " ", "\n", "\t", "é", "北", "🚀", "'", '"', "\\", "<", "&", "</think>", "<think>", "\u2028"]
    return "".join(rng.choice(parts) for _ in range(rng.randrange(8)))


def random_json(rng, depth=0):
    kinds = [None, True, False, 0, -1, 10**15, 0.5, -2.25, 1e100, 3e-7, 1.0, "text"]
    kinds += ["list", "object"] * (depth < 3)
    kind = rng.choice(kinds)
    if kind == "text":
        return random_text(rng)
    if kind == "list":
        return [random_json(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == "object":
        return {random_text(rng) + str(i): random_json(rng, depth + 1) for i in range(rng.randrange(4))}
    return kind


def random_content(rng):
    if rng.random() < 0.7:
        return random_text(rng)
    return [rng.choice([IMAGE, IMAGE_URL, VIDEO, text(random_text(rng))]) for _ in range(rng.randrange(4))]


def random_case(rng):
    messages = [system(random_text(rng))] if rng.random() < 0.4 else []
    for _ in range(rng.randrange(1, 7)):
        role = rng.choice(["user", "user", "assistant", "assistant", "tool"])
        message = {"role": role, "content": random_content(rng)}
        if role == "assistant" and rng.random() < 0.4:
            message["reasoning_content"] = rng.choice([None, random_text(rng)])
        if role == "assistant" and rng.random() < 0.4:
            names = [f"f{i}" for i in range(rng.randrange(3))]
            message["tool_calls"] = [
                call(n, {f"p{i}": random_json(rng) for i in range(rng.randrange(4))}, rng.random() < 0.7)
                for n in names
            ]
        messages.append(message)
    more = {"add_generation_prompt": rng.random() < 0.7}
    if rng.random() < 0.5:
        more["enable_thinking"] = rng.random() < 0.5
    if rng.random() < 0.3:
        more["add_vision_id"] = True
    if rng.random() < 0.4:
        more["tools"] = [{"type": "function", "function": random_json(rng)} for _ in range(rng.randrange(1, 3))]
    return messages, more


def cases():
    for template in TEMPLATES:
        for thinking in [None, True, False]:
            more = {} if thinking is None else {"enable_thinking": thinking}
            messages = [user("a"), assistant("b", reasoning_content="c"), user("d")]
            yield f"thinking {thinking}", template, messages, more
    for name, messages, more in shapes():
        yield name, TEMPLATES[0], messages, more
    rng = random.Random(2024)
    for i in range(80):
        messages, more = random_case(rng)
        yield f"random {i}", rng.choice(TEMPLATES), messages, more


def main():
    templates = {name: compiled(name) for name in TEMPLATES}
    rendered = []
    for name, template, messages, more in cases():
        case = {"name": name, "template": template, "messages": messages, **more}
        inputs = {"add_generation_prompt": True, "tools": None, **more}
        try:
            case["prompt"] = templates[template].render(messages=messages, **inputs)
        except jinja2.exceptions.TemplateError as error:
            case["error"] = str(error)
        rendered.append(case)
    lines = ",\n".join(json.dumps(case, ensure_ascii=True) for case in rendered)
    (HERE / "rendered.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
