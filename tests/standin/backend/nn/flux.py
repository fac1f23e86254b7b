"""The image model: Flux.2 Klein's blocks, with the parts and calls by which the web UI and its extensions know them."""

import torch
from torch import nn

from backend.args import dynamic_args
from backend.attention import attention_function
from backend.nn.lumina import EmbedND


def attention(q, k, v, pe, mask=None, transformer_options={}):  # noqa: B006
    """q, k and v [batch, heads, rows, size]; each pair of numbers is turned by its table."""
    q, k = ((pe.float() @ part.float().unflatten(-1, (-1, 2))[..., None]).flatten(-3).to(part) for part in (q, k))
    return attention_function(
        q, k, v, q.shape[1], skip_reshape=True, mask=mask, transformer_options=transformer_options
    )


class QKNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.query_norm, self.key_norm = nn.RMSNorm(dim), nn.RMSNorm(dim)

    def forward(self, qkv, heads):
        q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        return self.query_norm(q), self.key_norm(k), v


class Gated(nn.Module):
    def forward(self, x):
        first, second = x.chunk(2, dim=-1)
        return nn.functional.silu(first) * second


class SelfAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.norm = QKNorm(dim // heads)


class DoubleStreamBlock(nn.Module):
    def __init__(self, dim, heads, ratio):
        super().__init__()
        self.num_heads, self.hidden_size, inner = heads, dim, int(dim * ratio)
        for side in ("img", "txt"):
            for norm in ("norm1", "norm2"):
                setattr(self, f"{side}_{norm}", nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6))
            setattr(self, f"{side}_attn", SelfAttention(dim, heads))
            mlp = nn.Sequential(nn.Linear(dim, 2 * inner, bias=False), Gated(), nn.Linear(inner, dim, bias=False))
            setattr(self, f"{side}_mlp", mlp)

    def heads_of(self, side, x, modulation):
        shift, scale, _ = modulation
        own = getattr(self, f"{side}_attn")
        return own.norm(own.qkv(getattr(self, f"{side}_norm1")(x) * (1 + scale) + shift), self.num_heads)

    def behind(self, side, x, seen, first, second):
        x = x + getattr(self, f"{side}_attn").proj(seen) * first[2]
        inside = getattr(self, f"{side}_norm2")(x) * (1 + second[1]) + second[0]
        return x + getattr(self, f"{side}_mlp")(inside) * second[2]

    def forward(self, img, txt, vec, pe, attn_mask=None, transformer_options={}):  # noqa: B006
        of_img, of_txt = vec
        parts = zip(self.heads_of("txt", txt, of_txt[:3]), self.heads_of("img", img, of_img[:3]))
        q, k, v = (torch.cat(part, dim=2) for part in parts)
        seen = attention(q, k, v, pe=pe, mask=attn_mask, transformer_options=transformer_options)
        count = txt.shape[1]
        return (
            self.behind("img", img, seen[:, count:], of_img[:3], of_img[3:]),
            self.behind("txt", txt, seen[:, :count], of_txt[:3], of_txt[3:]),
        )


class SingleStreamBlock(nn.Module):
    def __init__(self, dim, heads, ratio):
        super().__init__()
        self.num_heads, self.hidden_dim, self.widths = heads, dim, [3 * dim, 2 * int(dim * ratio)]
        self.linear1 = nn.Linear(dim, sum(self.widths), bias=False)
        self.linear2 = nn.Linear(dim + int(dim * ratio), dim, bias=False)
        self.norm, self.pre_norm = QKNorm(dim // heads), nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.mlp_act = Gated()

    def forward(self, x, vec, pe, attn_mask=None, transformer_options={}):  # noqa: B006
        shift, scale, gate = vec
        qkv, mlp = self.linear1(self.pre_norm(x) * (1 + scale) + shift).split(self.widths, dim=-1)
        q, k, v = self.norm(qkv, self.num_heads)
        seen = attention(q, k, v, pe=pe, mask=attn_mask, transformer_options=transformer_options)
        return x + self.linear2(torch.cat([seen, self.mlp_act(mlp)], dim=2)) * gate


class Modulation(nn.Module):
    def __init__(self, dim, count):
        super().__init__()
        self.count, self.lin = count, nn.Linear(dim, count * dim, bias=False)

    def forward(self, vec):
        return self.lin(nn.functional.silu(vec[:, None])).chunk(self.count, dim=-1)


class IntegratedFluxTransformer2DModel(nn.Module):
    def __init__(
        self, in_channels, out_channels, context_in_dim, hidden_size, mlp_ratio, num_heads, depth, depth_single_blocks,
        axes_dim, theta, patch_size, **more,
    ):  # fmt: skip
        super().__init__()
        self.patch_size, self.axes_dim = patch_size, axes_dim
        self.img_in = nn.Linear(in_channels, hidden_size, bias=False)
        self.txt_in = nn.Linear(context_in_dim, hidden_size, bias=False)
        self.time_in = nn.Sequential(
            nn.Linear(256, hidden_size, bias=False), nn.SiLU(), nn.Linear(hidden_size, hidden_size, bias=False)
        )
        self.pe_embedder = EmbedND(theta, axes_dim)
        block = (hidden_size, num_heads, mlp_ratio)
        self.double_blocks = nn.ModuleList(DoubleStreamBlock(*block) for _ in range(depth))
        self.single_blocks = nn.ModuleList(SingleStreamBlock(*block) for _ in range(depth_single_blocks))
        self.double_stream_modulation_img = Modulation(hidden_size, 6)
        self.double_stream_modulation_txt = Modulation(hidden_size, 6)
        self.single_stream_modulation = Modulation(hidden_size, 3)
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.final_layer = nn.Linear(hidden_size, out_channels, bias=False)

    def process_img(self, x, index=0):
        """Rows of a picture, and their places: which picture, line, column, and none in the text."""
        _, _, lines, columns = x.shape
        places = torch.zeros(len(x), lines * columns, 4)
        places[..., 0] = index
        places[..., 1] = torch.arange(lines).repeat_interleave(columns)
        places[..., 2] = torch.arange(columns).repeat(lines)
        return x.flatten(2).transpose(1, 2), places

    def forward(self, x, timestep, context, control=None, transformer_options={}, **kwargs):  # noqa: B006
        img, places = self.process_img(x)
        count = img.shape[1]
        for number, noted in enumerate(dynamic_args.get("ref_latents") or (), 1):
            rows, own = self.process_img(noted.to(x).expand(len(x), -1, -1, -1), 10 * number)
            img, places = torch.cat([img, rows], dim=1), torch.cat([places, own], dim=1)
        order = torch.zeros(len(x), context.shape[1], 4)
        order[..., 3] = torch.arange(context.shape[1])
        pe = self.pe_embedder(torch.cat([order, places], dim=1))
        img, txt = self.img_in(img), self.txt_in(context)
        angles = 1000 * timestep.float()[:, None] * 10000 ** (-torch.arange(128).float() / 128)
        vec = self.time_in(torch.cat([angles.cos(), angles.sin()], dim=-1).to(img))
        more = {"pe": pe, "attn_mask": kwargs.get("attention_mask"), "transformer_options": transformer_options}
        both = (self.double_stream_modulation_img(vec), self.double_stream_modulation_txt(vec))
        for block in self.double_blocks:
            img, txt = block(img=img, txt=txt, vec=both, **more)
        rows, one = torch.cat([txt, img], dim=1), self.single_stream_modulation(vec)
        for block in self.single_blocks:
            rows = block(rows, vec=one, **more)
        out = self.final_layer(self.norm(rows[:, txt.shape[1] : txt.shape[1] + count]))
        return out.transpose(1, 2).unflatten(2, x.shape[2:])
