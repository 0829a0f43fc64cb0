"""`Client` and `AsyncClient`: chat completions, whole and streamed, and embeddings."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Self, Unpack

from .._asyncgen import aclosing_unhooked
from .._dialect.flow import Flow
from .._response.accumulator import Accumulator
from ..errors import APIStatusError, TIRError
from ..types import Completion, Delta, Embeddings, Messages
from .arguments import CallOptions
from .call import Call
from .loops import AsyncLoop, SyncLoop
from .parallel import run_in_tasks, run_in_threads
from .parameters import CallParameters

if TYPE_CHECKING:
    from .embeddings.arguments import EmbeddingParameters
    from .embeddings.job import Batch, EmbeddingJob


class Client(SyncLoop):
    """A synchronous client for one endpoint; one instance can be shared by any number of threads.

    ```python
    from tir_qwen import Client

    with Client() as client:  # reads E2E_TIR_ACCESS_TOKEN and E2E_TIR_PROJECT_ID
        question = {"role": "user", "content": "What is the capital of France?"}
        answer = client.complete([question], temperature=0.6, max_tokens=4096)
        print("Reasoning:", answer.reasoning)
        print("Answer:", answer.content)
        print(answer.usage)
    ```

    It opens up to 1,000 connections (further calls wait for one) and keeps up to 100 of them between calls. It can be
    copied, pickled and used after a fork; each copy opens its own connections.
    """

    def complete(self, messages: Messages, **params: Unpack[CallParameters]) -> Completion:
        """Send a chat completion request and return the complete answer.

        Args:
            messages: Messages in wire format: dicts with a `role` (`system`, `user`, `assistant` or `tool`) and a
                `content`, oldest first.
            **params: Fields of the request body (`temperature`, `max_tokens`, `stop`, `tools`, `response_format`, ...):
                all that vLLM and OpenAI document; None means unset. The following are not fields of the body:

                - `enable_thinking`: False makes the model answer without reasoning.
                - `extra_body`: a dict of any fields, which take precedence over all others.
                - `model`, `timeout`, `max_retries`: replace the client's.
                - `on_retry`: called with the error and the delay in seconds before each retry (awaited by
                  `AsyncClient`).
                - `tool_calling`: `native` sends tools in the request, `prompted` in the messages, `auto` (the default)
                  in the request unless the server rejects them.
                - `retry_tool_calls`: whether to send a second request if all tool calls of an answer are invalid, to
                  tell the model what is wrong; unset: only if a stream has lost a part of a call, to get all of it.
                - `schema_in`: where the schema of a `response_format` is sent: `request` (the default), `messages`, or
                  `both`.
                - `validate`: a function, such as `Person.model_validate_json`, that is called with the JSON of the
                  answer or, without a `response_format`, with the arguments of the only tool. If it raises ValueError,
                  the model is asked once to correct the answer; other exceptions are raised. Not used if `n` is above
                  1.

        Raises:
            ConfigurationError: An argument is unknown or malformed; nothing was sent.
            APIStatusError: The server rejected the request; retryable statuses were retried first.
            APIConnectionError: There was no response, even after retries; `APITimeoutError` if a time limit was
                exceeded.
            StreamError: The answer began and then failed; its `partial` is the `Completion` of what had arrived.
        """
        accumulator = Accumulator()
        for delta in self._deltas(messages, params, stream=False):
            accumulator.add(delta)
        return accumulator.completion()

    def stream(self, messages: Messages, **params: Unpack[CallParameters]) -> Generator[Delta]:
        """Stream a chat completion; arguments and errors are those of `complete`.

        ```python
        from contextlib import closing

        from tir_qwen import Client

        question = {"role": "user", "content": "What is the capital of France?"}
        reasoning = answer = ""
        with closing(Client().stream([question])) as deltas:
            for delta in deltas:
                reasoning += delta.reasoning
                answer += delta.content
                print(delta.content, end="", flush=True)
        print(delta.usage)
        ```

        If `validate` raises ValueError for content that has been passed on, the corrected content follows, beginning
        with a delta whose `replaces` is set.

        The request is sent when the generator is first advanced. The last delta contains the token counts
        (`stream_options=None` turns them off). Closing the generator early closes the connection, which makes the
        server stop; after a `break`, it is closed as soon as nothing refers to it.
        """
        return self._deltas(messages, params, stream=True)

    def embed(self, texts: Sequence[str], *, model: str, **params: Unpack[EmbeddingParameters]) -> Embeddings:
        """Return the vectors of texts, from an embedding model.

        ```python
        from tir_qwen import Client

        texts = ["Paris is the capital of France.", "Lima is the capital of Peru."]
        found = Client().embed(texts, model="e5-mistral-7b-instruct")
        for text, vector in zip(texts, found.vectors):
            print(text, len(vector))
        print(found.usage)
        ```

        Requests have up to `batch_size` texts each, and up to `max_concurrency` of them run in parallel threads. If one
        of them fails, no further ones are sent and its error is raised. A batch that is too large for the server is
        sent again in halves.

        Args:
            texts: The strings to embed; never sent as token ids. An empty text is embedded as a space.
            model: Name of the model, sent in the path and the body; not the client's, which answers conversations.
            **params: None means unset:

                - `dimensions`: length of the vectors, for models that support several.
                - `truncate_prompt_tokens`: how many tokens of a text to keep, or -1 for as many as the model allows; a
                  field of vLLM. If unset, a text that is too long raises `ContextOverflowError`.
                - `batch_size` (32) and `max_concurrency` (8): texts per request, and concurrent requests.
                - `extra_body`: a dict of any fields of the body, which take precedence over all others.
                - `timeout`, `max_retries`: replace the client's. `Timeout.first_delta` limits each request, and
                  `Timeout.total` all of them together.
                - `on_retry`: called with the error and the delay in seconds before each retry, in the request's thread
                  (awaited by `AsyncClient`).

        Raises:
            ConfigurationError: An argument is unknown or malformed; nothing was sent.
            ContextOverflowError: A text is too long for the model; the message says which, by its position from 0.
            APIStatusError: The server rejected a request; retryable statuses were retried first.
            APIConnectionError: There was no response, even after retries.
            StreamError: An answer began and then failed, even after retries, or does not have a vector for each text.
        """
        job = self._plan_embeddings(texts, model, params)
        run_in_threads(partial(self._embed_batch, job), job.batches, job.max_concurrency, job.abandon)
        return job.result()

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _deltas(self, messages: Messages, params: CallParameters, *, stream: bool) -> Generator[Delta]:
        options, flow, call = self._plan(messages, params, stream=stream)
        return self._flow_deltas(flow, call, options, stream=stream) if flow else self._results(call)

    def _flow_deltas(self, flow: Flow, call: Call, options: CallOptions, *, stream: bool) -> Generator[Delta]:
        """Yield the deltas of a call that may take several requests, of which `call` is the first."""
        while True:
            try:
                with closing(self._results(call)) as deltas:
                    for delta in deltas:
                        if visible := flow.feed(delta):
                            yield visible
            except TIRError as error:
                flow.request_failed(error)
            request = flow.next_request(call.completion())
            if request is None:
                break
            expires_at = call.deadline.total_expires_at
            call = self._new_call(options, request, stream=stream and not flow.asks_whole, total_expires_at=expires_at)
        yield from flow.remaining()

    def _embed_batch(self, job: EmbeddingJob, batch: Batch) -> None:
        try:
            for answer in self._results(job.new_call(batch)):
                job.add(batch, answer)
        except APIStatusError as error:
            parts = job.split(batch, error)
            if not parts:
                raise
        else:
            return
        for part in parts:
            self._embed_batch(job, part)


class AsyncClient(AsyncLoop):
    """The asynchronous version of `Client`, with the same arguments, for any number of tasks and event loops.

    ```python
    import asyncio

    from tir_qwen import AsyncClient


    async def main() -> None:
        async with AsyncClient() as client:
            answers = await asyncio.gather(
                client.complete([{"role": "user", "content": "What is the capital of France?"}]),
                client.complete([{"role": "user", "content": "What is the capital of Peru?"}]),
            )
        for answer in answers:
            print(answer.content)


    asyncio.run(main())
    ```
    """

    async def complete(self, messages: Messages, **params: Unpack[CallParameters]) -> Completion:
        """Send a chat completion request and return the complete answer; see `Client.complete`."""
        accumulator = Accumulator()
        async for delta in self._deltas(messages, params, stream=False):
            accumulator.add(delta)
        return accumulator.completion()

    def stream(self, messages: Messages, **params: Unpack[CallParameters]) -> AsyncGenerator[Delta]:
        """Stream a chat completion; see `Client.stream`. Closing the generator closes the connection at once.

        ```python
        import asyncio
        from contextlib import aclosing

        from tir_qwen import AsyncClient


        async def main() -> None:
            async with AsyncClient() as client:
                question = {"role": "user", "content": "What is the capital of France?"}
                async with aclosing(client.stream([question])) as deltas:
                    async for delta in deltas:
                        print(delta.content, end="")


        asyncio.run(main())
        ```
        """
        return self._deltas(messages, params, stream=True)

    async def embed(self, texts: Sequence[str], *, model: str, **params: Unpack[EmbeddingParameters]) -> Embeddings:
        """Return the vectors of texts, from an embedding model; see `Client.embed`."""
        job = self._plan_embeddings(texts, model, params)
        await run_in_tasks(partial(self._embed_batch, job), job.batches, job.max_concurrency)
        return job.result()

    async def aclose(self) -> None:
        """Close the connections of the running event loop; a later call opens new ones."""
        await self._pool.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def _deltas(self, messages: Messages, params: CallParameters, *, stream: bool) -> AsyncGenerator[Delta]:
        options, flow, call = self._plan(messages, params, stream=stream)
        return self._flow_deltas(flow, call, options, stream=stream) if flow else self._results(call)

    async def _flow_deltas(
        self, flow: Flow, call: Call, options: CallOptions, *, stream: bool
    ) -> AsyncGenerator[Delta]:
        """Yield the deltas of a call that may take several requests, of which `call` is the first."""
        while True:
            try:
                async with aclosing_unhooked(self._results(call)) as deltas:
                    async for delta in deltas:
                        if visible := flow.feed(delta):
                            yield visible
            except TIRError as error:
                flow.request_failed(error)
            request = flow.next_request(call.completion())
            if request is None:
                break
            expires_at = call.deadline.total_expires_at
            call = self._new_call(options, request, stream=stream and not flow.asks_whole, total_expires_at=expires_at)
        for delta in flow.remaining():
            yield delta

    async def _embed_batch(self, job: EmbeddingJob, batch: Batch) -> None:
        try:
            async with aclosing_unhooked(self._results(job.new_call(batch))) as answers:
                async for answer in answers:
                    job.add(batch, answer)
        except APIStatusError as error:
            parts = job.split(batch, error)
            if not parts:
                raise
        else:
            return
        for part in parts:
            await self._embed_batch(job, part)
