"""The text encoder: Qwen3, with the calls by which the web UI uses it."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Qwen3_4BConfig:  # noqa: N801
    vocab_size: int = 151936
    hidden_size: int = 2560
    intermediate_size: int = 9728
    num_hidden_layers: int = 36
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1000000.0
    head_dim = 128


def rotary(config, positions):
    """(cos [1, 1, tokens, head_dim], sin and -sin [1, 1, tokens, head_dim / 2]): what every layer is handed."""
    frequencies = config.rope_theta ** (-torch.arange(0, config.head_dim, 2).float() / config.head_dim)
    angles = positions.float()[:, None] * frequencies
    sine = angles.sin()[None, None]
    return torch.cat([angles, angles], dim=1).cos()[None, None], sine, -sine


def turn(x, tables):
    cosine, sine, negative = tables
    first, second = x.chunk(2, dim=-1)
    return (x * cosine + torch.cat([second * negative, first * sine], dim=-1)).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.shape = (config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        heads, kv_heads, size = self.shape
        self.q_proj = nn.Linear(config.hidden_size, heads * size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_heads * size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_heads * size, bias=False)
        self.o_proj = nn.Linear(heads * size, config.hidden_size, bias=False)
        self.q_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)

    def forward(self, x, mask, freqs_cis, past=None):
        heads, kv_heads, size = self.shape
        q, k, v = (
            project(x).unflatten(2, (-1, size)).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = turn(self.q_norm(q), freqs_cis), turn(self.k_norm(k), freqs_cis)
        if past:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        now = None if past is None else (k, v, k.shape[2])
        k, v = (part.repeat_interleave(heads // kv_heads, dim=1) for part in (k, v))
        out = nn.functional.scaled_dot_product_attention(q, k, v, mask)
        return self.o_proj(out.transpose(1, 2).flatten(2)), now


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class TransformerBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.self_attn, self.mlp = Attention(config), MLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, x, attention_mask=None, freqs_cis=None, optimized_attention=None, past_key_value=None):
        seen, now = self.self_attn(self.input_layernorm(x), attention_mask, freqs_cis, past_key_value)
        x = x + seen
        return x + self.mlp(self.post_attention_layernorm(x)), now


class Llama2_(nn.Module):  # noqa: N801
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(TransformerBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        x,
        attention_mask=None,
        embeds=None,
        num_tokens=None,
        intermediate_output=None,
        final_layer_norm_intermediate=True,
        dtype=None,
        embeds_info=(),
        past_key_values=None,
    ):
        """The last state after the final norm, and the output of one layer (counted from the end) before it, or the
        inputs of several (counted from the first) behind each other; of one that is given a list of keys and values,
        empty for none, also those of each layer.

        `dtype` is that of embeddings looked up here; `embeds_info` is of no use to a text encoder. The mask is of the
        whole sequence, also where there are keys and values of its beginning: layers can use it for one token alone.
        """
        x = self.embed_tokens(x) if embeds is None else embeds
        before = past_key_values[0][2] if past_key_values else 0
        count = x.shape[1]
        mask = torch.full((before + count, before + count), torch.finfo(x.dtype).min / 4, dtype=x.dtype).triu(1)
        if attention_mask is not None:  # 0: no token attends to it
            mask = mask + (1.0 - attention_mask.to(x.dtype))[:, None, None] * (torch.finfo(x.dtype).min / 4)
        tables = rotary(self.config, torch.arange(before, before + count))
        several = intermediate_output if isinstance(intermediate_output, list) else []
        wanted = None if several or intermediate_output is None else len(self.layers) + intermediate_output
        intermediate, handed, inputs = None, [], []
        for i, layer in enumerate(self.layers):
            inputs += [x] if i in several else []
            past = None if past_key_values is None else past_key_values[i] if past_key_values else []
            x, now = layer(x=x, attention_mask=mask, freqs_cis=tables, optimized_attention=None, past_key_value=past)
            handed += [now] if now else []
            if i == wanted:
                intermediate = self.norm(x) if final_layer_norm_intermediate else x
        if several:
            intermediate = torch.stack(inputs, dim=1)
        return (self.norm(x), intermediate, handed) if handed else (self.norm(x), intermediate)


class Qwen3_4B(nn.Module):  # noqa: N801
    def __init__(self, config_dict):
        super().__init__()
        self.model = Llama2_(Qwen3_4BConfig())

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def forward(self, input_ids, *args, **kwargs):
        return self.model(input_ids, *args, **kwargs)
