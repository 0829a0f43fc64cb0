"""Mistakes that a type checker must find; it would accept those in anything typed as Any.

Never run; see `program.py`.
"""

from __future__ import annotations

from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tir_qwen import AsyncClient, Client, Delta, Timeout, TIRError

Client(6530, token="token")  # wrong: no such argument
Client(timeout="soon")  # wrong
Client().complete("Hello")  # wrong: messages are a list
Client().complete([], temprature=0.6)  # wrong: no such argument
Client().stream([], temperature="hot")  # wrong
AsyncClient().stream([], tool_calling="sometimes")  # wrong: no such way
print(Client().complete([{"role": "user"}]).text)  # wrong: it is `content`
print(AsyncClient().complete([]).content)  # wrong: not awaited
Delta(content=1)  # wrong
Timeout(total="long")  # wrong
print(TIRError("no").message)  # wrong

ChatTIRQwen(temperature="hot")  # wrong
ChatTIRQwen(temprature=0.6)  # wrong: no such argument
ChatTIRQwen(tool_calling="sometimes")  # wrong: no such way
ChatTIRQwen(api_keyy="token")  # wrong: no such argument
ChatTIRQwen().invoke(5)  # wrong
ChatTIRQwen().invoke("Hello", temprature=0.6)  # wrong: no such argument
ChatTIRQwen().stream("Hello", max_tokens="many")  # wrong
ChatTIRQwen().astream("Hello", temprature=0.6)  # wrong: no such argument
print(ChatTIRQwen().invoke("Hello").text_content)  # wrong: no such attribute
ChatTIRQwen().bind_tools(5)  # wrong

TIRQwen(max_tokens="many")  # wrong
TIRQwen(temprature=0.6)  # wrong: no such argument
TIRQwen(tool_calling="sometimes")  # wrong: no such way
print(TIRQwen().metadata.window)  # wrong: it is `context_window`
TIRQwen().complete(5)  # wrong
TIRQwen().complete("Hello", temprature=0.6)  # wrong: no such argument
TIRQwen().stream_chat([], temperature="hot")  # wrong
print(TIRQwen().complete("Hello").content)  # wrong: it is `text`
