"""What is asked of the official client library, and what its exceptions mean.

Loading it takes half a second, so this module is imported when the first request is near.
"""

import json
from collections.abc import Callable

import openai
from openai import APIError

from belle_jax.api.errors import Failure, Refused

# Worth another try: time-out, conflict, too early, too many requests.
RETRIED = frozenset({408, 409, 425, 429})
# How servers say that prompt and answer together are too long: OpenAI's code and its older
# sentence, which vLLM and llama.cpp vary.
TOO_LONG = (
    'reduce your prompt',
    'reduce the length',
    'context_length',
    'maximum context length',
    'context size',
)
# A prompt that the server's own filter refuses says nothing about the other prompts.
FILTERED = ('content_filter', 'content_policy', 'content management policy')


def pool(key: str, base_url: str, proxies: bool) -> openai.AsyncOpenAI:
    """Connections to a server, without retries, as the library's know nothing of the journal.

    Args:
        key: Sent with each request.
        base_url: Of the server.
        proxies: Whether the environment's are used.
    Returns:
        The library's client.
    """
    return openai.AsyncOpenAI(
        api_key=key,
        base_url=base_url,
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=proxies),
    )


def failure(
    error: APIError, model: str, url: str, clean: Callable[[str], str] = str
) -> Failure | Refused:
    """What an exception of the client library means.

    Args:
        error: As `AsyncOpenAI` raised it.
        model: That was asked for.
        url: Of the server.
        clean: Takes out of its words what nobody should read.
    Returns:
        What to do about this request; Refused where no request can do better.
    """
    if isinstance(error, openai.APITimeoutError):
        return Failure('time-out', answered=False)
    if not isinstance(error, openai.APIStatusError):
        # The library's message is "Connection error." alone; its cause says which.
        return Failure('connection', clean(_cause(error)), answered=False)
    status, said, headers = error.status_code, clean(_said(error)), error.response.headers
    low = said.lower()
    if status == 429 and 'insufficient_quota' in low:
        return Refused(f"{url}: the account's quota is used up: {said}")
    if status in RETRIED or status >= 500:
        return Failure(str(status), said, headers=headers)
    if status == 401:
        # Servers repeat the key in this message, so it is not shown.
        return Refused(f'{url} does not accept the key: check the variable OPENAI_API_KEY (401).')
    if status == 403:
        return Refused(f'{url}: this key may not do this (403): {said}')
    if status == 404:
        return Refused(
            f'{url} does not know the model {model!r}, or is not the address of an API (404): '
            f'{said}. Check the model name, and that the base URL ends as the server wants it, as '
            'in /v1.'
        )
    if status in (400, 413) and any(words in low for words in TOO_LONG):
        return Failure('too long', said, action='shorten')
    if status == 400 and any(words in low for words in FILTERED):
        return Failure('refused prompt', said, action='give up')
    return Refused(f'{url} refuses the request ({status}): {said}')


def _said(error: openai.APIStatusError) -> str:
    """The server's own words, short, with the code that some put beside the message."""
    body = error.body
    if isinstance(body, dict):
        words = [body.get('code'), body.get('type'), body.get('message') or body.get('detail')]
        said = ', '.join(str(w) for w in words if w) or json.dumps(body, ensure_ascii=False)
    else:
        said = str(body or error.response.reason_phrase)
    return ' '.join(said.split())[:500]


def _cause(error: BaseException) -> str:
    """The innermost cause of an exception, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return ' '.join(f'{type(error).__name__} {error}'.split())[:200]


__all__ = ['APIError', 'failure', 'pool']
