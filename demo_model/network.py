"""The network: a small Llama, written so that its weights go into a GGUF file as they are."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that define the network."""

    vocabulary: int
    width: int = 256
    layers: int = 4
    heads: int = 4
    inner: int = 768
    context: int = 2048
    rope_base: float = 10_000.0
    epsilon: float = 1e-5


class _Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.attn_norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        self.attn_q, self.attn_k, self.attn_v, self.attn_output = (
            nn.Linear(shape.width, shape.width, bias=False) for _ in range(4)
        )
        self.ffn_norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        self.ffn_gate = nn.Linear(shape.width, shape.inner, bias=False)
        self.ffn_up = nn.Linear(shape.width, shape.inner, bias=False)
        self.ffn_down = nn.Linear(shape.inner, shape.width, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        rows, length, width = x.shape
        split = (rows, length, self.shape.heads, width // self.shape.heads)
        seen = self.attn_norm(x)
        q = _turned(self.attn_q(seen).view(split), turn)
        k = _turned(self.attn_k(seen).view(split), turn)
        v = self.attn_v(seen).view(split)
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        x = x + self.attn_output(mixed.transpose(1, 2).reshape(rows, length, width))
        seen = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(seen)) * self.ffn_up(seen))


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions over neighbouring pairs, the order that llama.cpp expects of a Llama."""
    cosine, sine = turn
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), -1).flatten(-2).type_as(x)


class Network(nn.Module):
    """Token ids in; for chosen places, the scores of the next token out. Input and output share one table."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocabulary, shape.width)
        self.blk = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02)
            if name.endswith(("attn_output.weight", "ffn_down.weight")):
                weight.data.div_((2 * shape.layers) ** 0.5)
        size = shape.width // shape.heads
        speed = shape.rope_base ** (-torch.arange(0, size, 2) / size)
        angle = torch.arange(shape.context)[:, None] * speed
        self.register_buffer("_cosine", angle.cos()[:, None, :], persistent=False)
        self.register_buffer("_sine", angle.sin()[:, None, :], persistent=False)

    def forward(self, ids: Tensor, wanted: Tensor) -> Tensor:
        """Scores for the places where `wanted` (a mask shaped as ids) is true."""
        length = ids.shape[1]
        turn = self._cosine[:length], self._sine[:length]
        x = self.token_embd(ids)
        for layer in self.blk:
            x = layer(x, turn)
        return F.linear(self.output_norm(x[wanted]), self.token_embd.weight)
