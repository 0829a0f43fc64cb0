"""Divides a call of `Client.embed` into requests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ..._dialect.capabilities import Capabilities
from ..._dialect.embeddings import EmbeddingDialect
from ..._request.build import build_embedding_request
from ..._request.endpoint import Endpoint
from ..._response.embeddings import EmbeddingDecoder
from ..._transport.deadline import Deadline
from ...timeouts import Timeout
from ..retry import RetryPolicy
from ..throttle import Throttle
from .arguments import EmbeddingParameters, read_embedding_arguments
from .call import EmbeddingCall
from .job import EmbeddingJob


def plan_embeddings(
    texts: Any,
    params: EmbeddingParameters,
    *,
    endpoint: Endpoint,
    model: str,
    capabilities: Capabilities,
    timeout: Timeout,
    retry_policy: RetryPolicy,
    throttle: Throttle | None,
) -> EmbeddingJob:
    """Read the arguments of a call; return its requests.

    Args:
        texts: What to embed.
        params: The other arguments.
        endpoint: Address and credentials.
        model: Name of the model.
        capabilities: What is known about the model's server.
        timeout: The client's, unless the call has its own.
        retry_policy: The client's, unless the call has its own.
        throttle: The concurrency limit, if any.

    Raises:
        ConfigurationError: An argument is unknown or malformed.
    """
    options = read_embedding_arguments(texts, params)

    def new_call(some: Sequence[str], deadline: Deadline) -> EmbeddingCall:
        return EmbeddingCall(
            EmbeddingDialect(some, options.fields, capabilities),
            partial(build_embedding_request, endpoint, model),
            lambda request: EmbeddingDecoder(len(some), options.dimensions, endpoint.secrets, request),
            options.retry_policy or retry_policy,
            deadline,
            secrets=endpoint.secrets,
            on_retry=options.on_retry,
            throttle=throttle,
        )

    return EmbeddingJob(options, options.timeout or timeout, new_call)
