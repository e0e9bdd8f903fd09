"""Makes src/unbroken/models/unbroken-demo.gguf again, from nothing but the files beside this one.

    pip install torch==2.13.0 numpy gguf regex jinja2
    python demo_model/train.py               # from nothing
    python demo_model/train.py --more 300    # after a change to the corpus: from the file as it is

About half an hour on two CPU cores. The seed is fixed; another machine's arithmetic may differ in the last digits.
"""

import argparse
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import gguf_file
import jinja2
import torch
import torch.nn.functional as F
from dialogues import Conversation, Corpus, Example, Rule, encode
from network import Network, Shape
from tokenizer import BYTES, IM_END, SPECIAL, Tokenizer, learn_merges
from torch import Tensor

HERE = Path(__file__).parent
MODEL = HERE.parent / "src" / "unbroken" / "models" / "unbroken-demo.gguf"
SEED = 1
VOCABULARY = 2048
BATCH_TOKENS = 4096
SHORT, LONG = 1_800, 6_000  # characters in a conversation; one batch in eight is of the longer kind
WARM_UP = 60
MORE_SHARE = 0.35  # of the full learning rate, when going on from a finished model


def make_tokenizer(corpus: Corpus, chance: random.Random) -> Tokenizer:
    """A vocabulary learned from the corpus and from a sample of the conversations made of it."""
    sample = [corpus.conversation(chance, SHORT).text() for _ in range(1_500)]
    written = [text for text in corpus.texts() for _ in range(8)]
    return Tokenizer(learn_merges([*written, *sample], VOCABULARY - 256 - len(SPECIAL)))


def check_template(template: str, corpus: Corpus, chance: random.Random) -> None:
    """The chat template must write a conversation exactly as it is trained on."""
    render = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).from_string(template).render
    for _ in range(50):
        conversation = corpus.conversation(chance, SHORT)
        plain = Conversation(
            conversation.system,
            conversation.offered,
            tuple(said for said in conversation.said if said.role != "assistant" or "<tool_call>" not in said.text),
        )
        messages = [{"role": "system", "content": plain.system}] if plain.system else []
        messages += [{"role": said.role, "content": said.text} for said in plain.said]
        tools = [
            {"function": {"name": tool.name, "parameters": {"required": list(tool.parameters)}}}
            for tool in plain.offered
        ]
        written = render(messages=messages, tools=tools, add_generation_prompt=False)
        assert written == plain.text(), f"chat_template.jinja wrote {written!r}, expected {plain.text()!r}"


def batches(corpus: Corpus, tokenizer: Tokenizer, context: int, chance: random.Random) -> Iterator[list[Example]]:
    """Batches of conversations of about one length, for ever."""
    while True:
        ready: list[list[Example]] = []
        for longest, count in ((SHORT, 7), (LONG, 1)):
            examples, total = [], 0
            while total < count * BATCH_TOKENS:
                example = encode(corpus.conversation(chance, longest), tokenizer)
                if len(example.ids) <= context:
                    examples.append(example)
                    total += len(example.ids)
            examples.sort(key=lambda example: len(example.ids))
            batch: list[Example] = []
            for example in examples:
                if batch and (len(batch) + 1) * len(example.ids) > BATCH_TOKENS * 1.3:
                    ready.append(batch)
                    batch = []
                batch.append(example)
            ready.append(batch)
        chance.shuffle(ready)
        yield from ready


def tensors(batch: list[Example]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, the mask of places whose next token is learned, those next tokens, and the rules they stand under."""
    length = max(len(example.ids) for example in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    learned, rules = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids)
    for row, example in enumerate(batch):
        size = len(example.ids)
        ids[row, :size] = torch.tensor(example.ids)
        learned[row, :size] = torch.tensor(example.learned)
        rules[row, :size] = torch.tensor(example.rules)
    places = learned[:, 1:]
    return ids[:, :-1], places, ids[:, 1:][places], rules[:, 1:][places]


def barriers(tokenizer: Tokenizer) -> Tensor:
    """For every rule, what to add to the scores so that only what it leaves open can be chosen."""
    added = torch.zeros(len(Rule), len(tokenizer.tokens))
    added[Rule.UNENDING, tokenizer.ids[IM_END]] = -1e4
    opening = tuple(BYTES[byte] for byte in b"{` \t\n")
    added[Rule.JSON] = torch.tensor([0.0 if token.startswith(opening) else -1e4 for token in tokenizer.tokens])
    return added


def optimizers(network: Network, share: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, Adam for the rest, at a share of the full rate."""
    matrices = [weight for layer in network.blk for weight in layer.parameters() if weight.ndim == 2]
    chosen = {id(weight) for weight in matrices}
    rest = [weight for weight in network.parameters() if id(weight) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=0.012 * share, weight_decay=0.02, momentum=0.95),
        torch.optim.AdamW(rest, lr=0.003 * share, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(
    network: Network, corpus: Corpus, tokenizer: Tokenizer, steps: int, share: float, chance: random.Random
) -> None:
    """Learns for a number of steps, at a rate that rises quickly and falls to nothing."""
    optimisers = optimizers(network, share)
    rates = [one.param_groups[0]["lr"] for one in optimisers]
    added, started, seen, smooth = barriers(tokenizer), time.perf_counter(), 0, 0.0
    source = batches(corpus, tokenizer, network.shape.context, chance)
    for step in range(steps):
        scale = min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for one, rate in zip(optimisers, rates, strict=True):
            one.param_groups[0]["lr"] = rate * scale
        ids, places, following, rules = tensors(next(source))
        with torch.autocast("cpu", torch.bfloat16):
            scores = network(ids, places)
        loss = F.cross_entropy(scores.float() + added[rules], following)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for one in optimisers:
            one.step()
            one.zero_grad(set_to_none=True)
        seen += ids.numel()
        smooth = loss.item() if not step else 0.97 * smooth + 0.03 * loss.item()
        if step % 20 == 0 or step == steps - 1:
            spent = time.perf_counter() - started
            print(
                f"step {step:5} of {steps}  loss {smooth:.4f}  {seen / spent:7.0f} tokens/s  {spent:5.0f} s", flush=True
            )


def main() -> None:
    """Trains and writes the model."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=1500)
    arguments.add_argument("--more", type=int, metavar="STEPS", help="go on from the file for so many steps")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--output", type=Path, default=MODEL)
    given = arguments.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(given.threads)
    chance, corpus = random.Random(SEED), Corpus()
    template = (HERE / "chat_template.jinja").read_text("utf-8")
    check_template(template, corpus, chance)
    if given.more:
        tokenizer, network = gguf_file.read_tokenizer(given.output), gguf_file.read_network(given.output)
    else:
        tokenizer = make_tokenizer(corpus, chance)
        network = Network(Shape(vocabulary=len(tokenizer.tokens)))
    size = sum(weight.numel() for weight in network.parameters())
    print(
        f"{len(corpus.entries)} entries, {len(tokenizer.tokens)} tokens in the vocabulary, {size:,} parameters",
        flush=True,
    )
    train(network, corpus, tokenizer, given.more or given.steps, MORE_SHARE if given.more else 1.0, chance)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    gguf_file.write(given.output, network, tokenizer, template)
    print(f"{given.output.name}: {given.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
