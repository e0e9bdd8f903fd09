"""llama.cpp's own server with the demo model, started as the gateway starts it, with nothing of ours before it.

Prints one JSON line when it is ready, the path of its socket and its key, and runs until its standard input closes.
"""

import asyncio
import json
import sys

import uvloop

from unbroken.settings.engine import EngineSettings
from unbroken.upstream.engine import DEMO_MODEL, Engine


async def main() -> None:
    """Runs the engine."""
    engine = Engine("alone", EngineSettings(path=str(DEMO_MODEL)))
    await engine.start()
    try:
        address = await engine.wait_until_ready(60)
        print(json.dumps({"socket": address.path, "key": address.key}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await engine.stop()


if __name__ == "__main__":
    uvloop.run(main())
