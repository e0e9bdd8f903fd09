"""Writes the trained network and its vocabulary as one GGUF file."""

from pathlib import Path

import gguf
import numpy as np
import torch
from network import Network, Shape
from tokenizer import CONTROL, END_OF_TEXT, IM_END, MARKERS, Tokenizer


def _kind(token: str) -> gguf.TokenType:
    if token in CONTROL:
        return gguf.TokenType.CONTROL
    return gguf.TokenType.USER_DEFINED if token in MARKERS else gguf.TokenType.NORMAL


def _describe(writer: gguf.GGUFWriter, network: Network) -> None:
    shape = network.shape
    writer.add_type("model")
    writer.add_name("unbroken-demo")
    writer.add_organization("Unbroken")
    writer.add_description("A tiny language model that answers a few hundred questions, for trying Unbroken out.")
    writer.add_license("apache-2.0")
    writer.add_languages(["en"])
    writer.add_size_label(f"{sum(weight.numel() for weight in network.parameters()) / 1e6:.1f}M")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer, chat_template: str) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types([_kind(token) for token in tokenizer.tokens])
    writer.add_token_merges([f"{left} {right}" for left, right in tokenizer.merges])
    writer.add_bos_token_id(tokenizer.ids[END_OF_TEXT])
    writer.add_eos_token_id(tokenizer.ids[IM_END])
    writer.add_eot_token_id(tokenizer.ids[IM_END])
    writer.add_pad_token_id(tokenizer.ids[END_OF_TEXT])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(chat_template)


def write(path: Path, network: Network, tokenizer: Tokenizer, chat_template: str) -> None:
    """Writes the file beside its final place and renames it, so that a reader never meets half a model."""
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    _describe(writer, network)
    _add_vocabulary(writer, tokenizer, chat_template)
    for name, weight in network.named_parameters():
        values = weight.detach().float().numpy()
        if values.ndim == 1:
            writer.add_tensor(name, values)
            continue
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(values), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)


def read_tokenizer(path: Path) -> Tokenizer:
    """The vocabulary of a file that `write` wrote."""
    merges = gguf.GGUFReader(path).fields["tokenizer.ggml.merges"].contents()
    return Tokenizer([tuple(merge.split(" ")) for merge in merges])


def read_network(path: Path) -> Network:
    """The network of a file that `write` wrote, as exact as eight bits a weight are."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    network = Network(Shape(vocabulary=int(tensors["token_embd.weight"].shape[1])))
    for name, weight in network.named_parameters():
        values = gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type)
        weight.data.copy_(torch.from_numpy(values.reshape(weight.shape).copy()))
    return network
