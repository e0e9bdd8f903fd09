"""The official SDK with our bytes for an answer, without a socket."""

import httpx2
from openai import OpenAI


def client_of(stream: bytes) -> OpenAI:
    """A client to whom every request is answered with this stream."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)

    transport = httpx2.MockTransport(answer)
    return OpenAI(api_key="k", base_url="http://test/v1", max_retries=0, http_client=httpx2.Client(transport=transport))
