"""Holds the finished model against llama.cpp: same tokens, same prompts, and how often it answers well by chance.

pip install xllamacpp
python demo_model/check.py [--seeds 10] [--temperature 0.8]
"""

import argparse
import json
import random
import re
import secrets
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xllamacpp
from dialogues import Conversation, Corpus
from gguf_file import read_tokenizer
from tokenizer import Tokenizer

MODEL = Path(__file__).parent.parent / "src" / "unbroken" / "models" / "unbroken-demo.gguf"
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>")
ODD = [
    "",
    " ",
    "\n\n  x\n",
    "a\tb\r\nc",
    "naïve café €5 ½ ²",
    "你好，世界 🌍👩‍🚀",
    "ﷺ\u2028\u00a0\ufeff",
    "I'm you'll WE'RE 1234",
    "\x00\x7f",
    "Ⅷ٣",
]


class Engine:
    """llama.cpp with the model in it."""

    def __init__(self, path: Path) -> None:
        key = secrets.token_hex()
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.api_keys, params.ui, params.port, params.warmup = [key], False, 0, False
        params.n_ctx, params.n_parallel, params.cache_ram_mib = 2048, 1, 0
        params.use_jinja, params.verbosity = True, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        self._server = xllamacpp.Server(params)
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}

    def post(self, route: str, body: dict[str, Any]) -> Any:
        """What the server's own HTTP port answers."""
        request = urllib.request.Request(
            self._server.listening_address + route, json.dumps(body).encode(), self._headers
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    def choice(self, **body: Any) -> dict[str, Any]:
        """The one choice of a chat completion."""
        return self.post("/v1/chat/completions", {"max_tokens": 1000, **body})["choices"][0]


def as_messages(conversation: Conversation) -> Iterator[dict[str, Any]]:
    """The conversation as an OpenAI request writes it."""
    if conversation.system:
        yield {"role": "system", "content": conversation.system}
    for said in conversation.said:
        message: dict[str, Any] = {"role": said.role, "content": _CALL.sub("", said.text)}
        if calls := [json.loads(call) for call in _CALL.findall(said.text)]:
            message["tool_calls"] = [
                {"type": "function", "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])}}
                for call in calls
            ]
        if said.role == "tool":
            message["tool_call_id"] = "call"
        yield message


def check_tokens(engine: Engine, tokenizer: Tokenizer, corpus: Corpus) -> int:
    """How many texts were cut into the same tokens by both; the first difference is an error."""
    chance = random.Random(0)
    made = [corpus.conversation(chance, 1_800).text() for _ in range(300)]
    noise = ["".join(chr(chance.randrange(1, 0xD7FF)) for _ in range(40)) for _ in range(100)]
    texts = [*corpus.texts(), *made, *noise, *ODD]
    for text in texts:
        theirs = engine.post("/tokenize", {"content": text})["tokens"]
        if theirs != tokenizer.encode(text):
            raise SystemExit(f"other tokens for {text!r}: llama.cpp {theirs}, here {tokenizer.encode(text)}")
    return len(texts)


def check_template(engine: Engine, corpus: Corpus) -> int:
    """How many conversations llama.cpp writes as they were trained on; the first difference is an error."""
    chance = random.Random(0)
    for _ in range(300):
        conversation = corpus.conversation(chance, 1_800)
        tools = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "parameters": {
                        "type": "object",
                        "properties": {name: {"type": "string"} for name in tool.parameters},
                        "required": list(tool.parameters),
                    },
                },
            }
            for tool in conversation.offered
        ]
        messages = [*as_messages(conversation), {"role": "user", "content": "Hi"}]
        theirs = engine.post(
            "/apply-template", {"messages": messages, "tools": tools} if tools else {"messages": messages}
        )
        ours = conversation.text() + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        if theirs["prompt"] != ours:
            raise SystemExit(f"another prompt: llama.cpp {theirs['prompt']!r}, here {ours!r}")
    return 300


def score(engine: Engine, corpus: Corpus, seeds: int, temperature: float) -> None:
    """Prints, for every hand-written question that is not answered as written each time, how often it is."""
    asked = right = 0
    for entry in corpus.entries:
        if "say" not in entry:
            continue
        for ask in entry["ask"]:
            answers = [
                engine.choice(
                    messages=[{"role": "user", "content": ask}],
                    temperature=temperature,
                    seed=seed,
                    top_k=0,
                    top_p=1,
                    min_p=0,
                )["message"]["content"]
                for seed in range(seeds)
            ]
            good = sum(answer in entry["say"] for answer in answers)
            asked, right = asked + seeds, right + good
            if good < seeds:
                print(f"{good:3} of {seeds}  {ask}  ->  {next(a for a in answers if a not in entry['say'])!r}"[:200])
    print(f"{right} of {asked} answers at temperature {temperature} are as written")


def main() -> None:
    """Checks and prints."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--temperature", type=float, default=0.8)
    arguments.add_argument("--model", type=Path, default=MODEL)
    given = arguments.parse_args()
    engine, corpus = Engine(given.model), Corpus()
    print(f"{check_tokens(engine, read_tokenizer(given.model), corpus)} texts: same tokens")
    print(f"{check_template(engine, corpus)} conversations: same prompts")
    if given.seeds:
        score(engine, corpus, given.seeds, given.temperature)


if __name__ == "__main__":
    main()
