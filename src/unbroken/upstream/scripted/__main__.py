"""Run a scripted upstream by hand: `python -m unbroken.upstream.scripted --port 9000 --script cut_after=20`."""

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence

from unbroken.upstream.scripted.answers import text
from unbroken.upstream.scripted.draft import Answer
from unbroken.upstream.scripted.named import explain, read_script
from unbroken.upstream.scripted.received import Received
from unbroken.upstream.scripted.server import ScriptedUpstream
from unbroken.upstream.scripted.steps import Script, ScriptError

EPILOG = """\
Each --script answers one request, in order; the last one goes on for ever. Examples:

  an answer of 200 words that is always cut after 20 blocks, ten blocks a second
    python -m unbroken.upstream.scripted --port 9000 --words 200 --script gap=0.1,cut_after=20

  busy at first, then well
    python -m unbroken.upstream.scripted --port 9000 --script rate_limited=2 --script overloaded --script ok

  ask it
    curl -N http://127.0.0.1:9000/v1/chat/completions -d '{"stream": true, "messages": []}'

"""


def arguments() -> argparse.ArgumentParser:
    """Give the command line, whose --help teaches by example."""
    parser = argparse.ArgumentParser(
        prog="python -m unbroken.upstream.scripted",
        description="A fake OpenAI-compatible provider that fails as it is told: try a gateway against it.",
        epilog=EPILOG + explain(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--unix", metavar="PATH", help="listen on a unix socket instead")
    parser.add_argument("--model", default="scripted", help="the model it lists (default: %(default)s)")
    said = parser.add_mutually_exclusive_group()
    said.add_argument("--text", default="one two three", help="what it says, a chunk per word (default: %(default)r)")
    said.add_argument("--words", type=int, metavar="N", help="say N words instead")
    parser.add_argument("--script", action="append", metavar="WORDS", help="what the next request gets; see below")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until interrupted; the base URL is the first line of the output."""
    parser = arguments()
    options = parser.parse_args(argv)
    said = text(options.text if options.words is None else " ".join(f"word{n}" for n in range(1, options.words + 1)))
    try:
        scripts = [read_script(words, said) for words in options.script or ["ok"]]
    except ValueError as error:
        parser.error(str(error))
    upstream = ScriptedUpstream(host=options.host, port=options.port, unix_path=options.unix, models=[options.model])
    try:
        asyncio.run(serve(upstream, scripts))
    except ScriptError as error:
        sys.exit(f"while it ran: {error}")


async def serve(upstream: ScriptedUpstream, scripts: Sequence[Answer | Script]) -> None:
    """Play the scripts in order, the last one for ever, until SIGINT or SIGTERM; a line per request on stderr."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    for script in scripts[:-1]:
        upstream.script(script)
    upstream.always(scripts[-1])
    upstream.answer_with(report)
    async with upstream:
        with contextlib.suppress(BrokenPipeError):
            print(upstream.base_url, flush=True)
        await stopped.wait()


def report(request: Received) -> None:
    """Tell that a request came; it gets what is queued."""
    print(
        f"{request.number} {request.method} {request.target} ({len(request.body)} bytes)", file=sys.stderr, flush=True
    )


if __name__ == "__main__":
    main()
