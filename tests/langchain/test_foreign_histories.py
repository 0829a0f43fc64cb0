"""Histories that other chat models, core's content blocks and tools leave behind, as they are sent to this model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.tools import tool

from langchain_tir_qwen._messages import messages_to_wire
from tests.support.scripted_transport import Reply, Scripted, model_on
from tir_qwen import ConfigurationError
from tir_qwen._integrations import placeholder

DATA = "aGVsbG8="
SOURCE = {"type": "base64", "media_type": "image/png", "data": DATA}
PDF = {"type": "base64", "media_type": "application/pdf", "data": DATA}


@pytest.fixture(autouse=True)
def _nothing_logged_yet() -> Iterator[None]:
    """Forget which placeholders have been logged."""
    placeholder.cache_clear()
    yield
    placeholder.cache_clear()


def text(words: str, **more: Any) -> dict[str, Any]:
    """Return a block of text."""
    return {"type": "text", "text": words, **more}


def block(kind: str, **fields: Any) -> dict[str, Any]:
    """Return a block of this type."""
    return {"type": kind, **fields}


def human(*blocks: Any) -> HumanMessage:
    """Return a user's message."""
    return HumanMessage(list(blocks))


def answer(*blocks: Any) -> AIMessage:
    """Return another model's answer."""
    return AIMessage(list(blocks))


def result(*blocks: Any) -> ToolMessage:
    """Return the result of a tool."""
    return ToolMessage(list(blocks), tool_call_id="c1")


SENT: dict[str, tuple[BaseMessage, str]] = {
    # Anthropic.
    "anthropic: thinking and text": (
        answer(block("thinking", thinking="Hm.", signature="x"), block("redacted_thinking", data="x"), text("Yes.")),
        "Yes.",
    ),
    "anthropic: tool use": (
        answer(text("I look."), block("tool_use", id="t1", name="f", input={}, caller={"type": "direct"})),
        "I look.",
    ),
    "anthropic: citations": (
        answer(text("It is "), text("sunny", citations=[{"type": "char_location", "cited_text": "Sun"}]), text(".")),
        "It is sunny.",
    ),
    "anthropic: web search": (
        answer(
            text("I search."),
            block("server_tool_use", id="s1", name="web_search", input={"query": "weather"}),
            block(
                "web_search_tool_result",
                tool_use_id="s1",
                content=[
                    block(
                        "web_search_result", title="Weather", url="https://a.in", encrypted_content="x", page_age=None
                    ),
                    block("web_search_result", title="Sun", url="https://b.in", encrypted_content="x"),
                ],
            ),
            text("It is "),
            text("sunny."),
        ),
        "I search.\nWeather\nhttps://a.in\nSun\nhttps://b.in\nIt is sunny.",
    ),
    "anthropic: web search that failed": (
        answer(
            block(
                "web_search_tool_result",
                tool_use_id="s1",
                content=block("web_search_tool_result_error", error_code="max_uses_exceeded"),
            ),
            text("Sorry."),
        ),
        "max_uses_exceeded\nSorry.",
    ),
    "anthropic: web page": (
        answer(
            block(
                "web_fetch_tool_result",
                tool_use_id="s1",
                content=block(
                    "web_fetch_result",
                    url="https://a.in",
                    retrieved_at="2026-01-01",
                    content=block(
                        "document",
                        title="A page",
                        source={"type": "text", "media_type": "text/plain", "data": "Sunny."},
                    ),
                ),
            )
        ),
        "https://a.in\nA page\nSunny.",
    ),
    "anthropic: code execution": (
        answer(
            text("I compute."),
            block("server_tool_use", id="s1", name="code_execution", input={"code": "print(42)"}),
            block(
                "code_execution_tool_result",
                tool_use_id="s1",
                content=block("code_execution_result", stdout="42", stderr="", return_code=0, content=[]),
            ),
            text("It is 42."),
        ),
        "I compute.\n42\nIt is 42.",
    ),
    "anthropic: code execution in a shell, with a file": (
        answer(
            block(
                "bash_code_execution_tool_result",
                tool_use_id="s1",
                content=block(
                    "bash_code_execution_result",
                    stdout="done",
                    stderr="slow",
                    return_code=0,
                    content=[block("bash_code_execution_output", file_id="file_1")],
                ),
            )
        ),
        "done\nslow\n[file, not shown to this model]",
    ),
    "anthropic: code execution without output": (
        answer(
            block(
                "bash_code_execution_tool_result",
                tool_use_id="s1",
                content=block("bash_code_execution_result", stdout="", stderr="", return_code=0, content=[]),
            ),
            text("Done."),
        ),
        "\nDone.",
    ),
    "anthropic: encrypted code execution": (
        answer(
            block(
                "code_execution_tool_result",
                tool_use_id="s1",
                content=block("encrypted_code_execution_result", encrypted_stdout="x", stderr="", content=[]),
            ),
        ),
        "[code execution tool result, not shown to this model]",
    ),
    "anthropic: text editor": (
        answer(
            block(
                "text_editor_code_execution_tool_result",
                tool_use_id="s1",
                content=block("text_editor_code_execution_view_result", file_type="text", content="a = 1", num_lines=1),
            ),
            block(
                "text_editor_code_execution_tool_result",
                tool_use_id="s2",
                content=block("text_editor_code_execution_view_result", file_type="image", content=DATA),
            ),
            block(
                "text_editor_code_execution_tool_result",
                tool_use_id="s3",
                content=block("text_editor_code_execution_str_replace_result", lines=["-a = 1", "+a = 2"], new_start=1),
            ),
        ),
        "a = 1\n[text editor code execution tool result, not shown to this model]\n-a = 1\n+a = 2",
    ),
    "anthropic: MCP connector": (
        answer(
            block("mcp_tool_use", id="m1", name="f", server_name="s", input={}),
            block("mcp_tool_result", tool_use_id="m1", is_error=False, content=[text("5"), text("6")]),
            text("Eleven."),
        ),
        "5\n6\nEleven.",
    ),
    "anthropic: tool search": (
        answer(
            block("server_tool_use", id="s1", name="tool_search_tool_bm25", input={"query": "weather"}),
            block(
                "tool_search_tool_result",
                tool_use_id="s1",
                content=block(
                    "tool_search_tool_search_result",
                    tool_references=[block("tool_reference", tool_name="get_weather")],
                ),
            ),
        ),
        "get_weather",
    ),
    "anthropic: advisor": (
        answer(block("advisor_tool_result", tool_use_id="s1", content=block("advisor_result", text="Wait."))),
        "Wait.",
    ),
    "anthropic: container upload": (answer(block("container_upload", file_id="f1")), "[file, not shown to this model]"),
    "anthropic: compaction": (
        answer(block("compaction", content="They greeted each other.", signature="x"), text("And now?")),
        "They greeted each other.\nAnd now?",
    ),
    "anthropic: fallback to another model": (
        answer(block("fallback", **{"from": {"model": "a"}, "to": {"model": "b"}}), text("Hello")),
        "Hello",
    ),
    "anthropic: a stream with a search": (
        reduce(
            add,
            [
                AIMessageChunk([block("server_tool_use", id="s1", name="web_search", input={}, index=0)]),
                AIMessageChunk([block("input_json_delta", partial_json='{"query": "a"}', index=0)]),
                AIMessageChunk(
                    [
                        block(
                            "web_search_tool_result",
                            tool_use_id="s1",
                            content=[block("web_search_result", title="A", url="https://a.in")],
                            index=1,
                        )
                    ]
                ),
                AIMessageChunk([text("It is ", index=2)]),
                AIMessageChunk([text("sunny.", index=2)]),
                AIMessageChunk([], chunk_position="last"),
            ],
        ),
        "A\nhttps://a.in\nIt is sunny.",
    ),
    "anthropic: tool result in a user's message": (
        human(
            block("tool_result", tool_use_id="t1", content="5"),
            block("tool_result", tool_use_id="t2", content=[text("6"), block("image", source=SOURCE)], is_error=False),
            block("tool_result", tool_use_id="t3"),
            text("Well?"),
        ),
        "5\n6\n[image, not shown to this model]\n[tool result, not shown to this model]\nWell?",
    ),
    "anthropic: document of text": (
        human(
            block(
                "document",
                source={"type": "text", "media_type": "text/plain", "data": "Sunny."},
                title="Weather",
                citations={"enabled": True},
            ),
            text("Well?", cache_control={"type": "ephemeral"}),
        ),
        "Weather\nSunny.\nWell?",
    ),
    "anthropic: document of blocks": (
        human(block("document", source={"type": "content", "content": [text("Sunny."), text("Warm.")]})),
        "Sunny.\nWarm.",
    ),
    "anthropic: search result of a user": (
        human(block("search_result", title="A", source="https://a.in", content=[text("Sunny.")])),
        "A\nhttps://a.in\nSunny.",
    ),
    "anthropic: search result of a tool": (
        result(
            block("search_result", title="A", source="a.txt", content=[text("Sunny.")], citations={"enabled": True}),
            text("Enough."),
        ),
        "A\na.txt\nSunny.\nEnough.",
    ),
    "anthropic: tool reference": (result(block("tool_reference", tool_name="get_weather")), "get_weather"),
    "anthropic: image of a tool": (
        result(text("Here:"), block("image", source=SOURCE)),
        "Here:\n[image, not shown to this model]",
    ),
    "anthropic: PDF of a tool": (
        result(block("document", title="Report", source=PDF)),
        "[document, not shown to this model]",
    ),
    # OpenAI.
    "openai: reasoning and text": (
        answer(
            block("reasoning", id="rs_1", summary=[{"type": "summary_text", "text": "Hm."}], encrypted_content="x"),
            text("Yes.", annotations=[], id="msg_1", phase="final_answer"),
        ),
        "Yes.",
    ),
    "openai: output text": (answer(block("output_text", text="Yes", annotations=[]), text(".")), "Yes."),
    "openai: input text": (human(block("input_text", text="Hello"), block("input_text", text="Bye")), "Hello\nBye"),
    "openai: refusal": (answer(block("refusal", refusal="No.", id="msg_1")), "No."),
    "openai: text without words": (answer(block("text", annotations=[], id="msg_1", index=0), text("Yes.")), "Yes."),
    "openai: function call": (
        answer(block("function_call", id="fc_1", call_id="c1", name="f", arguments="{}"), text("I look.")),
        "I look.",
    ),
    "openai: custom tool call": (
        answer(block("custom_tool_call", call_id="c1", name="f", input="x"), text("I look.")),
        "I look.",
    ),
    "openai: custom tool's result": (result(block("custom_tool_call_output", output="5")), "5"),
    "openai: web search": (
        answer(
            block("web_search_call", id="ws_1", status="completed", action={"type": "search", "query": "weather"}),
            text("Sunny.", annotations=[{"type": "url_citation", "url": "https://a.in", "title": "A"}]),
        ),
        "[web search results, not shown to this model]\nSunny.",
    ),
    "openai: file search": (
        answer(
            block(
                "file_search_call",
                id="fs_1",
                queries=["weather"],
                status="completed",
                results=[{"file_id": "f1", "filename": "a.txt", "score": 0.5, "text": "Sunny.", "attributes": {}}],
            ),
            text("Yes."),
        ),
        "a.txt\nSunny.\nYes.",
    ),
    "openai: file search without its results": (
        answer(block("file_search_call", id="fs_1", queries=["weather"], status="completed", results=None)),
        "[file search results, not shown to this model]",
    ),
    "openai: code interpreter": (
        answer(
            block(
                "code_interpreter_call",
                id="ci_1",
                code="print(42)",
                container_id="x",
                status="completed",
                outputs=[{"type": "logs", "logs": "42"}, {"type": "image", "url": "https://a.in"}],
            ),
            text("It is 42."),
        ),
        "print(42)\n42\n[image, not shown to this model]\nIt is 42.",
    ),
    "openai: remote MCP": (
        answer(
            block("mcp_list_tools", id="ml_1", server_label="s", tools=[{"name": "f", "input_schema": {}}]),
            block("mcp_approval_request", id="ma_1", name="f", arguments="{}", server_label="s"),
            block("mcp_call", id="mc_1", name="f", arguments="{}", server_label="s", output="5"),
            block("mcp_call", id="mc_2", name="f", arguments="{}", server_label="s", error={"type": "http_error"}),
            text("Five."),
        ),
        "5\n[tool result, not shown to this model]\nFive.",
    ),
    "openai: image generation": (
        answer(block("image_generation_call", id="ig_1", status="completed", result=DATA, output_format="png")),
        "[image, not shown to this model]",
    ),
    "openai: tool search": (
        answer(
            block("tool_search_call", id="ts_1", execution="server", arguments={"query": "weather"}),
            block("tool_search_output", id="ts_2", execution="server", tools=[{"type": "function", "name": "f"}]),
        ),
        "[tool search results, not shown to this model]",
    ),
    "openai: shell and patches": (
        answer(
            block("shell_call", call_id="c1", action={"commands": ["ls"]}),
            block("shell_call_output", call_id="c1", output=[{"stdout": "a.txt", "stderr": "", "outcome": {}}]),
            block("apply_patch_call", call_id="c2", operation={"type": "delete_file", "path": "a.txt"}),
            block("apply_patch_call_output", call_id="c2", status="completed", output="deleted"),
        ),
        "a.txt\ndeleted",
    ),
    "openai: compaction": (
        answer(block("compaction", id="cm_1", encrypted_content="x"), text("And now?")),
        "[summary of earlier messages, not shown to this model]\nAnd now?",
    ),
    "openai: computer use": (
        answer(block("computer_call", id="cu_1", call_id="c1", action={"type": "screenshot"}), text("I look.")),
        "I look.",
    ),
    "openai: screenshot": (
        result(block("input_image", image_url=f"data:image/png;base64,{DATA}")),
        "[image, not shown to this model]",
    ),
    "openai: image of a tool": (
        result(block("image_url", image_url={"url": f"data:image/png;base64,{DATA}"})),
        "[image, not shown to this model]",
    ),
    # Google.
    "gemini: code execution": (
        answer(
            text("I compute."),
            block("executable_code", executable_code="print(42)", language="PYTHON", id="e1"),
            block("code_execution_result", code_execution_result="42", outcome=1, tool_call_id=""),
            text("It is 42."),
        ),
        "I compute.\nprint(42)\n42\nIt is 42.",
    ),
    "gemini: function call signature": (
        answer(block("function_call_signature", signature="x", index=0), text("I look.", extras={"signature": "x"})),
        "I look.",
    ),
    "gemini: strings": (answer("It is ", "sunny."), "It is sunny."),
    "gemini: generated image": (
        answer("Here:", block("image_url", image_url={"url": f"data:image/png;base64,{DATA}"})),
        "Here:\n[image, not shown to this model]",
    ),
    "gemini: media of a tool": (
        result(block("media", mime_type="video/mp4", data=DATA), block("file_data", file_uri="gs://a", mime_type="x")),
        "[file, not shown to this model]\n[file, not shown to this model]",
    ),
    "gemini: media processed by a server tool": (
        answer(
            block("server_tool_call", id="s1", name="media", args={}),
            block("server_tool_result", tool_call_id="s1", status="success", output={"frames": 5}),
            text("A cat."),
        ),
        "[tool result, not shown to this model]\nA cat.",
    ),
    # Bedrock.
    "bedrock: reasoning": (
        answer(block("reasoning_content", reasoning_content={"text": "Hm.", "signature": "x"}), text("Yes.")),
        "Yes.",
    ),
    "bedrock: cache point": (
        human(text("A long text."), {"cachePoint": {"type": "default"}}, text("Well?")),
        "A long text.\nWell?",
    ),
    "bedrock: cache point of the system": (
        SystemMessage([text("Be kind."), {"cachePoint": {"type": "default"}}]),
        "Be kind.",
    ),
    "bedrock: guarded text": (
        human(
            block("guard_content", text="Hello"),
            {"guardContent": {"text": {"text": "Bye", "qualifiers": ["query"]}}},
            text("?"),
        ),
        "Hello\nBye\n?",
    ),
    "bedrock: guarded answer": (
        answer(block("guard_content", guard_content={"type": "text", "text": "Hello"})),
        "Hello",
    ),
    "bedrock: blocks without types": (
        result({"text": "5"}, {"json": {"n": 6}}, {"image": {"format": "png", "source": {"bytes": "x"}}}),
        '5\n{"n":6}\n[image, not shown to this model]',
    ),
    "bedrock: calls and results without types": (
        answer(
            {"reasoningContent": {"reasoningText": {"text": "Hm."}}},
            {"toolUse": {"toolUseId": "t1", "name": "f", "input": {}}},
            {"toolResult": {"toolUseId": "t1", "status": "success", "content": [{"text": "5"}, {"json": [6]}]}},
            {"citationsContent": {"content": [{"text": "Five."}], "citations": []}},
            {"searchResult": {"title": "A", "source": "a.txt", "content": [{"text": "Sunny."}]}},
        ),
        "5\n[6]\nFive.\nA\na.txt\nSunny.",
    ),
    "bedrock: documents": (
        human(
            block("document", document={"format": "txt", "name": "a", "source": {"text": "Sunny."}}),
            {"document": {"format": "txt", "name": "b", "source": {"text": "Warm."}}},
        ),
        "Sunny.\nWarm.",
    ),
    "bedrock: system tool": (
        answer(
            block("server_tool_use", id="s1", name="nova_grounding", input={}),
            block("server_tool_result", tool_use_id="s1", is_error=False, content=[text("Sunny.")]),
            text("Yes."),
        ),
        "Sunny.\nYes.",
    ),
    "bedrock: video of a tool": (
        result(block("video", source={"media_type": "video/mp4", "type": "s3Location", "data": {"uri": "s3://a"}})),
        "[video, not shown to this model]",
    ),
    # Mistral.
    "mistral: reference": (
        answer(text("It is "), block("reference", text="sunny", reference_ids=[1]), text(".")),
        "It is sunny.",
    ),
    "mistral: reference without words": (answer(text("Yes"), block("reference", reference_ids=[1]), text(".")), "Yes."),
    "mistral: thinking": (answer(block("thinking", thinking=[text("Hm.")]), text("Yes.")), "Yes."),
    # langchain-core's content blocks.
    "core: server tool": (
        answer(
            block("server_tool_call", id="s1", name="code_interpreter", args={"code": "print(42)"}),
            block("server_tool_result", tool_call_id="s1", status="success", output="42"),
            text("It is 42."),
        ),
        "42\nIt is 42.",
    ),
    "core: server tool without its result": (
        answer(block("server_tool_result", tool_call_id="s1", status="success"), text("Sunny.")),
        "[tool result, not shown to this model]\nSunny.",
    ),
    "core: server tool with a list of objects": (
        answer(block("server_tool_result", tool_call_id="s1", output=[{"name": "f"}, 5]), text("Two.")),
        "[tool result, not shown to this model]\nTwo.",
    ),
    "core: non-standard": (
        answer(block("non_standard", value=block("web_search_tool_result", content="Sunny.")), text("Yes.")),
        "Sunny.\nYes.",
    ),
    "core: non-standard and unknown": (
        answer(block("non_standard", value=block("audio_of_tomorrow", x="x")), block("non_standard", value={})),
        "[audio of tomorrow, not shown to this model]\n[other content, not shown to this model]",
    ),
    "core: plain text file": (
        human(block("text-plain", text="Sunny.", mime_type="text/plain", title="Weather")),
        "Weather\nSunny.",
    ),
    "core: plain text file by URL of a tool": (
        result(block("text-plain", url="https://a.in", mime_type="text/plain")),
        "[file, not shown to this model]",
    ),
    "core: audio answer": (
        answer(block("audio", base64=DATA, mime_type="audio/wav")),
        "[audio, not shown to this model]",
    ),
    "core: text file of version 0.3": (
        result(block("file", source_type="text", text="Sunny.", url="Sunny.", mime_type="text/plain")),
        "Sunny.",
    ),
    "core: a chat message of an assistant": (
        ChatMessage([text("Here"), text(":"), block("image", url="https://a.in")], role="assistant"),
        "Here:\n[image, not shown to this model]",
    ),
    # Tools.
    "mcp: image": (
        result(text("Here:"), block("image", base64=DATA, mime_type="image/png", id="lc_1")),
        "Here:\n[image, not shown to this model]",
    ),
    "mcp: resource link": (
        result(block("file", url="https://a.in/a.pdf", mime_type="application/pdf", id="lc_1")),
        "[file, not shown to this model]",
    ),
    "mcp: embedded file": (
        result(block("file", base64=DATA, mime_type="application/pdf", id="lc_1")),
        "[file, not shown to this model]",
    ),
    "mcp: its own format": (
        result(
            block("resource", resource={"uri": "file:///a.txt", "mimeType": "text/plain", "text": "Sunny."}),
            block("resource", resource={"uri": "file:///a.bin", "blob": DATA}),
            block("resource_link", uri="file:///a.txt", name="a"),
            block("audio", data=DATA, mimeType="audio/wav"),
        ),
        "Sunny.\n"
        "[resource, not shown to this model]\n"
        "[file, not shown to this model]\n"
        "[audio, not shown to this model]",
    ),
    "a tool that returns JSON": (result(block("json", json={"a": [1, "ü"]}), "End."), '{"a":[1,"ü"]}\nEnd.'),
    "a tool that asks another model": (
        result(block("thinking", thinking="Hm."), text("Yes."), block("tool_use", id="t1", name="f", input={})),
        "Yes.",
    ),
}


@pytest.mark.parametrize("name", SENT)
def test_history_is_sent(name: str) -> None:
    """A history that another provider left behind is sent with all its text, in order, and is not changed."""
    message, expected = SENT[name]
    before = message.model_dump()
    lab = Scripted(Reply("Good day!"))

    assert model_on(lab).invoke([HumanMessage("Hello"), message, HumanMessage("And?")]).content == "Good day!"

    role = {"ai": "assistant", "chat": "assistant", "human": "user", "tool": "tool", "system": "system"}
    sent = {"role": role[message.type.removesuffix("MessageChunk").lower()], "content": expected}
    if isinstance(message, ToolMessage):
        sent["tool_call_id"] = "c1"
    assert lab.bodies[0]["messages"][1] == sent
    assert message.model_dump() == before


def test_agent_goes_on_after_an_image() -> None:
    """A tool that returns an image, as tools of MCP servers do, does not end an agent's run."""

    @tool
    def take_picture() -> list[dict[str, Any]]:
        """Take a picture."""
        return [text("Taken."), block("image", base64=DATA, mime_type="image/png")]

    lab = Scripted(Reply(calls=(("take_picture", "{}"),)), Reply("I cannot see it."))
    said = create_agent(model_on(lab), [take_picture]).invoke({"messages": [HumanMessage("Take a picture.")]})

    assert said["messages"][-1].content == "I cannot see it."
    assert lab.bodies[1]["messages"][-1]["content"] == "Taken.\n[image, not shown to this model]"


ONLY_TEXT = "Qwen3-32B accepts text only."
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "core: image": (block("image", url="https://a.in"), f"a block of type 'image': {ONLY_TEXT}"),
    "core: audio": (block("audio", base64=DATA, mime_type="audio/wav"), f"a block of type 'audio': {ONLY_TEXT}"),
    "core: file": (block("file", url="https://a.in/a.pdf"), f"a block of type 'file': {ONLY_TEXT}"),
    "core: plain text by URL": (
        block("text-plain", url="https://a.in", title="A"),
        f"a block of type 'text-plain': {ONLY_TEXT}",
    ),
    "core: non-standard": (
        block("non_standard", value=block("image", source=SOURCE)),
        f"a block of type 'image': {ONLY_TEXT}",
    ),
    "openai: image": (block("input_image", image_url="https://a.in"), f"a block of type 'input_image': {ONLY_TEXT}"),
    "openai: file": (
        block("input_file", filename="a.pdf", file_data=DATA),
        f"a block of type 'input_file': {ONLY_TEXT}",
    ),
    "anthropic: image": (block("image", source=SOURCE), f"a block of type 'image': {ONLY_TEXT}"),
    "anthropic: PDF": (block("document", title="A", source=PDF), f"a block of type 'document': {ONLY_TEXT}"),
    "anthropic: PDF by URL": (
        block("document", title="A", source={"type": "url", "url": "https://a.in"}),
        f"a block of type 'document': {ONLY_TEXT}",
    ),
    "anthropic: PDF by id": (
        block("document", context="A", source={"type": "file", "file_id": "f1"}),
        f"a block of type 'document': {ONLY_TEXT}",
    ),
    "anthropic: image in a document": (
        block("document", source={"type": "content", "content": [text("A"), block("image", source=SOURCE)]}),
        f"a block of type 'image': {ONLY_TEXT}",
    ),
    "anthropic: file in a container": (
        block("container_upload", file_id="f1"),
        f"a block of type 'container_upload': {ONLY_TEXT}",
    ),
    "bedrock: image": ({"image": {"format": "png", "source": {}}}, f"a block of type 'image': {ONLY_TEXT}"),
    "bedrock: PDF": (
        {"document": {"format": "pdf", "name": "a", "source": {"bytes": "x"}}},
        f"a block of type 'document': {ONLY_TEXT}",
    ),
    "gemini: media": (block("media", mime_type="video/mp4", data=DATA), f"a block of type 'media': {ONLY_TEXT}"),
    "unknown, with text": (block("hologram", text="Hello"), f"a block of type 'hologram': {ONLY_TEXT}"),
    "without a type": ({"content": "Hello"}, "a block without a type and without text."),
    "with a type that is no name": ({"type": 5, "text": "Hello"}, "a block without a type and without text."),
    "empty": ({}, "a block without a type and without text."),
    "text without text": ({"type": "text"}, "a block of type 'text' without text."),
    "text that is a number": ({"type": "text", "text": 5}, "a block of type 'text' without text."),
    "a number without a type": ({"text": 5}, "a block of type 'text' without text."),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("message", [HumanMessage, SystemMessage])
def test_block_of_a_user_is_refused(message: type[BaseMessage], name: str) -> None:
    """What a user or the system sends is never replaced: an error says what it is, before anything is sent."""
    refused, words = REFUSED[name]
    lab = Scripted()
    with pytest.raises(ConfigurationError) as caught:
        model_on(lab).invoke([message(content=[text("Look:"), refused])])
    assert str(caught.value) == f"message 0 ({message.model_fields['type'].default}) contains {words}"
    assert lab.requests == []


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        ({"city": "Paris", "degrees": 22}, "a block without a type and without text."),
        ({"type": "text", "text": 5}, "a block of type 'text' without text."),
        ({"type": "json", "json": {1, object()}}, None),
    ],
    ids=["without a type", "text that is a number", "json that is none"],
)
def test_malformed_block_of_a_tool(refused: Any, words: str | None) -> None:
    """A block of no known format is an error in a tool's result as well: its text is not guessed."""
    with pytest.raises(ConfigurationError) as caught:
        messages_to_wire([result(text("5"), refused)])
    if words:
        assert str(caught.value) == f"message 0 (tool) contains {words}"
    else:
        assert str(caught.value).startswith("a block of message 0 (tool) cannot be written as JSON")


def test_endless_blocks() -> None:
    """Blocks that contain themselves are an error of ours."""
    endless: dict[str, Any] = block("tool_result")
    endless["content"] = [endless]
    message = HumanMessage.model_construct(content=[endless])
    with pytest.raises(ConfigurationError, match=r"^message 0 \(human\) contains blocks that are nested too deeply\.$"):
        messages_to_wire([message])


def test_placeholders_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Each kind of placeholder is logged once per process, without any content."""
    image = block("image", url="https://secret.in", base64="secret", title="secret")
    search = block("web_search_call", id="secret", action={"query": "secret"})
    with caplog.at_level(logging.DEBUG, "tir_qwen"):
        for _ in range(2):
            messages_to_wire([result(image, image), answer(search, image)])

    said = "The model accepts text only: a part of the conversation is sent as '[%s, not shown to this model]'."
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", said % "image"),
        ("WARNING", said % "web search results"),
    ]


def test_text_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A history of which nothing is left out leaves nothing in the log."""
    with caplog.at_level(logging.DEBUG, "tir_qwen"):
        messages_to_wire([SENT["anthropic: web search"][0], SENT["gemini: code execution"][0]])
    assert not caplog.records


NAMES = {
    "bash_code_execution_output": "file",
    "code_execution_output": "file",
    "compaction": "summary of earlier messages",
    "computer_call_output": "image",
    "container_upload": "file",
    "file_data": "file",
    "file_search_call": "file search results",
    "image_generation_call": "image",
    "image_url": "image",
    "input_audio": "audio",
    "input_file": "file",
    "input_image": "image",
    "mcp_call": "tool result",
    "media": "file",
    "non_standard": "other content",
    "resource_link": "file",
    "server_tool_result": "tool result",
    "some_new_block": "some new block",
    "text-plain": "file",
    "tool_search_output": "tool search results",
    "video_url": "video",
    "web_fetch_tool_result": "web page",
    "web_search_call": "web search results",
    "web_search_tool_result": "web search results",
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_placeholder_names_what_a_block_without_text_holds(kind: str) -> None:
    """What stands for a block without text in an answer is named in words."""
    assert messages_to_wire([AIMessage([{"type": kind}])]) == [
        {"role": "assistant", "content": placeholder(NAMES[kind])}
    ]


TEXT_OF_FIELDS = {
    "text": {"data": "a"},
    "output_text": {"text": "a"},
    "refusal": {"refusal": "a"},
    "reference": {"text": "a"},
    "input_text": {"text": "a"},
    "text-plain": {"text": "a"},
    "file": {"text": "a"},
    "document": {"source": "a"},
    "resource": {"text": "a"},
    "guard_content": {"text": "a"},
    "guardContent": {"text": "a"},
    "tool_result": {"content": "a"},
    "toolResult": {"content": "a"},
    "search_result": {"source": "a"},
    "searchResult": {"content": "a"},
    "web_search_result": {"url": "a"},
    "web_fetch_result": {"url": "a"},
    "tool_reference": {"tool_name": "a"},
    "tool_search_tool_search_result": {"tool_references": "a"},
    "executable_code": {"executable_code": "a"},
    "code_execution_result": {"stderr": "a"},
    "text_editor_code_execution_str_replace_result": {"lines": "a"},
    "code_interpreter_call": {"outputs": "a"},
    "logs": {"logs": "a"},
    "file_search_call": {"results": "a"},
}


@pytest.mark.parametrize("kind", TEXT_OF_FIELDS)
@pytest.mark.parametrize("message", [HumanMessage, AIMessage])
def test_a_block_with_text_is_sent_whoever_says_it(kind: str, message: type[BaseMessage]) -> None:
    """The text of a block is sent for every type whose field for it is known, in answers and questions."""
    (wire,) = messages_to_wire([message([{"type": kind, **TEXT_OF_FIELDS[kind]}])])
    assert wire["content"] == "a"


@pytest.mark.parametrize("kind", ["text", "output_text", "refusal", "reference"])
def test_parts_of_a_text_are_joined_in_an_answer_only(kind: str) -> None:
    """In an answer, parts of one text follow one another; in a question, each is on its own line."""
    blocks: list[Any] = [{"type": "text", "text": "a"}, {"type": kind, "refusal" if kind == "refusal" else "text": "b"}]
    wire = messages_to_wire([HumanMessage(blocks), AIMessage(blocks)])
    assert [message["content"] for message in wire] == ["a\nb", "ab"]


@pytest.mark.parametrize("block", [{"type": "tool_result"}, {"toolResult": {}}], ids=["Anthropic", "Bedrock"])
def test_an_image_in_a_tool_result_of_a_question_has_a_placeholder(block: dict[str, Any]) -> None:
    """Results of tools may be in a user's message, where images are refused otherwise."""
    image = {"type": "image", "source": {}}
    result = {"toolResult": {"content": [image]}} if "toolResult" in block else {**block, "content": [image]}
    assert messages_to_wire([HumanMessage([result])]) == [{"role": "user", "content": placeholder("image")}]
