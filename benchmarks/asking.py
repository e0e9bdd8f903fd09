"""The bytes of the request that every connection of the load sends."""

import json
from urllib.parse import urlsplit


def get_bytes(args):
    """A request for a stream that is there already."""
    url = urlsplit(args.url)
    headers = {"host": url.netloc, "accept": "text/event-stream", "authorization": f"Bearer {args.key}"}
    head = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
    return f"GET {url.path.rstrip('/')}{args.path} HTTP/1.1\r\n{head}\r\n".encode()


def request_bytes(args):
    if args.get:
        return get_bytes(args)
    body = {
        "model": args.model,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant. Answer briefly."},
            {"role": "user", "content": "Say a few words about the weather in Lisbon in May."},
        ],
        "temperature": 0.7,
        "max_tokens": 512,
    }
    if args.real:
        body |= {"max_tokens": args.chunks, "ignore_eos": True, "temperature": 0, "cache_prompt": False}
    if args.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    body = json.dumps(body).encode()
    url = urlsplit(args.url)
    headers = {
        "host": url.netloc or "engine",
        "content-type": "application/json",
        "accept": "*/*",
        "user-agent": "bench/1",
        "content-length": str(len(body)),
    }
    if args.key:
        headers["authorization"] = f"Bearer {args.key}"
    headers.update(h.split(":", 1) for h in args.header)
    path = args.path if url.scheme == "unix" else url.path.rstrip("/") + args.path
    head = "".join(f"{k}: {v.strip()}\r\n" for k, v in headers.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body
