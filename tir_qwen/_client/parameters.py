"""The parameters of a call: their names, types, and what they do."""

# Without `from __future__ import annotations`: the types are checked at run time (see `validation`).

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from ..errors import TIRError
from ..timeouts import Timeout
from ..types import Validate

TimeoutLike = float | Timeout | Mapping[str, float | None] | None
OnRetry = Callable[[TIRError, float], Any] | None


class OptionParameters(TypedDict, total=False):
    """The parameters of a call that are not fields of the request body."""

    model: str | None
    """Name of the model, sent in the path and the body; replaces the client's."""
    timeout: TimeoutLike
    """Seconds to wait for progress, or a `tir_qwen.Timeout`; replaces the client's."""
    max_retries: int | None
    """How often to retry a request that failed before its answer began; replaces the client's."""
    on_retry: OnRetry
    """Called with the error and the delay in seconds before each retry; awaited by `AsyncClient`."""
    tool_calling: Literal["auto", "native", "prompted"] | None
    """How tools are sent: in the request (`native`), in the messages (`prompted`), or in the request unless the server
    rejects them (`auto`, the default)."""
    retry_tool_calls: bool | None
    """Whether to send a second request if all tool calls of an answer are invalid; unset: only if a stream has lost a
    part of a call."""
    schema_in: Literal["request", "messages", "both"] | None
    """Where the schema of a `response_format` is sent; `request` is the default."""
    validate: Validate | None
    """Called with the JSON of the answer or, without a `response_format`, with the arguments of the only tool. If it
    raises ValueError, the model is told the error and asked once to correct the answer. Not used if `n` is above 1."""


class IgnoredParameters(TypedDict, total=False):
    """Fields of OpenAI's API that have no effect on Qwen3 and vLLM. They are sent, since a gateway may use them."""

    user: str | None
    """Ignored by vLLM."""
    store: bool | None
    """Ignored by vLLM."""
    metadata: Mapping[str, Any] | None
    """Ignored by vLLM."""
    reasoning_effort: str | None
    """Ignored by Qwen3, which has `enable_thinking`; other models, such as gpt-oss, obey it."""
    verbosity: str | None
    """Ignored by vLLM."""
    service_tier: str | None
    """Ignored by vLLM."""
    prediction: Mapping[str, Any] | None
    """Ignored by vLLM."""
    modalities: Sequence[str] | None
    """Ignored by vLLM."""
    audio: Mapping[str, Any] | None
    """Ignored by vLLM."""
    web_search_options: Mapping[str, Any] | None
    """Ignored by vLLM."""
    prompt_cache_key: str | None
    """Ignored by vLLM."""
    prompt_cache_retention: str | None
    """Ignored by vLLM."""
    safety_identifier: str | None
    """Ignored by vLLM."""


class CallParameters(OptionParameters, IgnoredParameters, total=False):
    """All parameters of a call; None means unset.

    Sources: TIR's API reference, the request of vLLM's chat completions (0.9 to 0.32), and OpenAI's API.
    """

    extra_body: Mapping[str, Any] | None
    """Further fields of the request body; they take precedence over all other parameters."""
    enable_thinking: bool | None
    """Whether to reason before answering; unset: the server's default, usually to reason."""
    thinking_budget: int | None
    """Maximum number of tokens of the reasoning, after which the answer follows; 0 turns thinking off."""

    # Documented by TIR
    temperature: float | None
    """Sampling temperature, 0 or higher."""
    max_tokens: int | None
    """Maximum number of tokens of the reasoning and the answer."""
    top_p: float | None
    """Nucleus sampling: sample from the most likely tokens with this total probability."""
    frequency_penalty: float | None
    """-2 to 2: penalty for each occurrence of a token in the answer so far."""
    presence_penalty: float | None
    """-2 to 2: penalty for tokens that occur in the answer so far."""
    seed: int | None
    """Seed of the sampling."""
    n: int | None
    """Number of answers to one prompt."""
    logprobs: bool | None
    """Whether to report the log-probability of each token."""
    logit_bias: Mapping[str, float] | None
    """Added to the likelihood of tokens, by token id: -100 to 100."""

    # Documented by vLLM
    stop: str | Sequence[str] | None
    """Strings that end the answer, which does not include them."""
    stop_token_ids: Sequence[int] | None
    """Token ids that end the answer."""
    include_stop_str_in_output: bool | None
    """Whether the answer includes the stop string that ended it."""
    tools: Sequence[Mapping[str, Any]] | None
    """The tools that the model may call."""
    tool_choice: str | Mapping[str, Any] | None
    """`auto`, `none`, `required`, or a dict with the function to call."""
    parallel_tool_calls: bool | None
    """Whether one answer may contain several tool calls."""
    response_format: Mapping[str, Any] | None
    """The format of the answer: `{"type": "json_schema", ...}`, `{"type": "json_object"}` or `{"type": "text"}`."""
    stream_options: Mapping[str, Any] | None
    """Options of a stream; None turns token counts off."""
    chat_template_kwargs: Mapping[str, Any] | None
    """Arguments of the chat template."""
    max_completion_tokens: int | None
    """OpenAI's newer name of `max_tokens`."""
    top_logprobs: int | None
    """With `logprobs`: how many of the most likely tokens to report at each position."""
    top_k: int | None
    """Sample from this many of the most likely tokens; 0 means all."""
    min_p: float | None
    """Sample from tokens with at least this fraction of the most likely one's probability."""
    repetition_penalty: float | None
    """Above 1: penalty for tokens of the prompt and of the answer so far."""
    length_penalty: float | None
    """With beam search: above 1 prefers longer answers."""
    min_tokens: int | None
    """Minimum number of tokens before the answer may end."""
    best_of: int | None
    """Number of answers to generate, of which the best `n` are returned; vLLM 0.9 only."""
    use_beam_search: bool | None
    """Whether to use beam search instead of sampling."""
    ignore_eos: bool | None
    """Whether to continue after the token that ends the answer."""
    bad_words: Sequence[str] | None
    """Words that must not be generated."""
    allowed_token_ids: Sequence[int] | None
    """The only token ids that may be generated."""
    logits_processors: Sequence[Any] | None
    """Logits processors that the server knows; vLLM 0.9 only."""
    skip_special_tokens: bool | None
    """Whether to leave special tokens out of the answer."""
    spaces_between_special_tokens: bool | None
    """Whether to put spaces between special tokens."""
    truncate_prompt_tokens: int | None
    """Keep only this many tokens of the prompt."""
    truncation_side: Literal["left", "right"] | None
    """The side at which `truncate_prompt_tokens` cuts."""
    prompt_logprobs: int | None
    """How many log-probabilities to report for each token of the prompt."""
    logprob_token_ids: Sequence[int] | None
    """Token ids whose log-probabilities to report at each position."""
    echo: bool | None
    """Whether to put the last message before the answer, if their roles are the same."""
    add_generation_prompt: bool | None
    """Whether the prompt ends with the start of an answer."""
    continue_final_message: bool | None
    """Whether the answer continues the last message instead of following it."""
    add_special_tokens: bool | None
    """Whether to add special tokens to those of the chat template."""
    documents: Sequence[Mapping[str, str]] | None
    """Documents for a chat template that supports them."""
    chat_template: str | None
    """A Jinja template that replaces the model's."""
    mm_processor_kwargs: Mapping[str, Any] | None
    """Arguments of the processor of images and audio."""
    media_io_kwargs: Mapping[str, Any] | None
    """Arguments for loading images and audio."""
    structured_outputs: Mapping[str, Any] | None
    """A constraint on the answer, such as `{"choice": ["yes", "no"]}`; vLLM 0.11 and later."""
    guided_json: str | Mapping[str, Any] | None
    """A JSON schema that the answer must follow; vLLM before 0.12."""
    guided_regex: str | None
    """A regular expression that the answer must match; vLLM before 0.12."""
    guided_choice: Sequence[str] | None
    """The possible answers; vLLM before 0.12."""
    guided_grammar: str | None
    """A context-free grammar that the answer must follow; vLLM before 0.12."""
    guided_decoding_backend: str | None
    """The library that enforces `guided_...`; vLLM before 0.12."""
    guided_whitespace_pattern: str | None
    """The whitespace that `guided_json` allows; vLLM before 0.12."""
    structural_tag: str | None
    """A structural tag that the answer must follow; vLLM before 0.12."""
    thinking_token_budget: int | None
    """Maximum number of tokens of the reasoning; newer versions of vLLM (`thinking_budget` works with all)."""
    include_reasoning: bool | None
    """Whether the answer includes the reasoning."""
    priority: int | None
    """Priority of the request; lower is earlier."""
    request_id: str | None
    """Id of the request, which vLLM uses for the answer."""
    session_id: str | None
    """Id of the session that requests belong to."""
    return_tokens_as_token_ids: bool | None
    """Whether log-probabilities name tokens by their ids."""
    return_token_ids: bool | None
    """Whether to report the ids of the prompt's and the answer's tokens."""
    return_prompt_text: bool | None
    """Whether to report the prompt that the chat template made."""
    cache_salt: str | None
    """Keeps the prompt's cache separate from that of other users."""
    kv_transfer_params: Mapping[str, Any] | None
    """Parameters of disaggregated serving."""
    ec_transfer_params: Mapping[str, Any] | None
    """Parameters of disaggregated serving."""
    vllm_xargs: Mapping[str, Any] | None
    """Arguments of the server's own extensions."""
    repetition_detection: Mapping[str, Any] | None
    """When to end an answer that repeats itself; newer versions of vLLM."""
    stream_interval: int | None
    """Number of tokens in each chunk of a stream; newer versions of vLLM."""
    watermarking: bool | None
    """Whether to watermark the answer; newer versions of vLLM."""
