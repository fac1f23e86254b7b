"""The image model: Z-Image's blocks, with the parts and calls by which the web UI and its extensions know them."""

import torch
from torch import nn

from backend.attention import attention_function


class EmbedND(nn.Module):
    """Rotary tables [batch, 1, rows, size / 2, 2, 2] of positions [batch, rows, axes]."""

    def __init__(self, theta, axes_dim):
        super().__init__()
        self.theta, self.axes_dim = theta, axes_dim

    def forward(self, ids):
        turns = []
        for axis, size in enumerate(self.axes_dim):
            angles = ids[..., axis, None].float() * self.theta ** (-torch.arange(0, size, 2).float() / size)
            table = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], dim=-1)
            turns.append(table.unflatten(-1, (2, 2)))
        return torch.cat(turns, dim=-3)[:, None]


def turn(x, tables):
    """x [batch, rows, heads, size], pair by pair, with tables [batch, rows, 1, size / 2, 2, 2]."""
    return (tables.float() @ x.float().unflatten(-1, (-1, 2))[..., None]).flatten(-3).to(x)


class JointAttention(nn.Module):
    def __init__(self, dim, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.q_norm, self.k_norm = nn.RMSNorm(dim // n_heads), nn.RMSNorm(dim // n_heads)

    def forward(self, x, x_mask, freqs_cis, transformer_options={}):  # noqa: B006
        q, k, v = self.qkv(x).unflatten(2, (3, self.n_heads, -1)).unbind(2)
        q, k = turn(self.q_norm(q), freqs_cis), turn(self.k_norm(k), freqs_cis)
        q, k, v = (part.movedim(1, 2) for part in (q, k, v))
        more = {"skip_reshape": True, "transformer_options": transformer_options}
        return self.out(attention_function(q, k, v, self.n_heads, x_mask, **more))


class JointTransformerBlock(nn.Module):
    def __init__(self, dim, n_heads, norm_eps, modulation=True):
        super().__init__()
        self.attention = JointAttention(dim, n_heads)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 2 * dim, bias=False), nn.SiLU(), nn.Linear(2 * dim, dim))
        self.attention_norm1, self.attention_norm2, self.ffn_norm1, self.ffn_norm2 = (
            nn.RMSNorm(dim, eps=norm_eps) for _ in range(4)
        )
        if modulation:
            self.adaLN_modulation = nn.Linear(min(dim, 256), 4 * dim)

    def forward(self, x, x_mask, freqs_cis, adaln_input=None, transformer_options={}):  # noqa: B006
        attended, fed = (0.0, 1.0), (0.0, 1.0)  # scale and gate
        if adaln_input is not None:
            parts = self.adaLN_modulation(adaln_input)[:, None].chunk(4, dim=2)
            attended, fed = (parts[0], parts[1].tanh()), (parts[2], parts[3].tanh())
        seen = self.attention(
            self.attention_norm1(x) * (1 + attended[0]), x_mask, freqs_cis, transformer_options=transformer_options
        )
        x = x + attended[1] * self.attention_norm2(seen)
        return x + fed[1] * self.ffn_norm2(self.feed_forward(self.ffn_norm1(x) * (1 + fed[0])))


class NextDiT(nn.Module):
    def __init__(
        self,
        patch_size=2,
        in_channels=4,
        dim=4096,
        n_layers=32,
        n_refiner_layers=2,
        n_heads=32,
        norm_eps=1e-5,
        qk_norm=False,
        cap_feat_dim=5120,
        axes_dims=(16, 56, 56),
        rope_theta=10000.0,
        z_image_modulation=False,
        time_scale=1.0,
        pad_tokens_multiple=None,
        **more,
    ):
        super().__init__()
        self.patch_size, self.out_channels, self.dim = patch_size, in_channels, dim
        self.time_scale, self.pad_tokens_multiple = time_scale, pad_tokens_multiple

        def blocks(count, modulation=True):
            return nn.ModuleList(JointTransformerBlock(dim, n_heads, norm_eps, modulation) for _ in range(count))

        self.x_embedder = nn.Linear(patch_size**2 * in_channels, dim)
        self.t_embedder = nn.Linear(min(dim, 256), min(dim, 256))
        self.cap_embedder = nn.Sequential(nn.RMSNorm(cap_feat_dim, eps=norm_eps), nn.Linear(cap_feat_dim, dim))
        self.noise_refiner, self.context_refiner = blocks(n_refiner_layers), blocks(n_refiner_layers, modulation=False)
        self.layers = blocks(n_layers)
        self.final_layer = nn.Linear(dim, patch_size**2 * in_channels)
        self.x_pad_token, self.cap_pad_token = (nn.Parameter(torch.zeros(1, dim)) for _ in range(2))
        self.rope_embedder = EmbedND(rope_theta, axes_dims)

    def padded(self, rows, token):
        """Rows with one of their own at the end, up to a multiple."""
        return torch.cat([rows, token.to(rows).expand(len(rows), -rows.shape[1] % self.pad_tokens_multiple, -1)], dim=1)

    def forward(
        self, x, timesteps, context, num_tokens=None, attention_mask=None, transformer_options={}, **kwargs  # noqa: B006
    ):  # fmt: skip
        patch, (_, _, height, width) = self.patch_size, x.shape
        x = nn.functional.pad(x, (0, -width % patch, 0, -height % patch), mode="circular")
        lines, columns = x.shape[2] // patch, x.shape[3] // patch
        steps = torch.arange(self.t_embedder.in_features).float()
        t = self.t_embedder(torch.sin((1 - timesteps.float())[:, None] * self.time_scale / 1.1**steps).to(x))

        caption = self.padded(self.cap_embedder(context), self.cap_pad_token)
        places = torch.zeros(len(x), lines * columns, 3)
        places[..., 0] = caption.shape[1] + 1
        places[..., 1] = torch.arange(lines).repeat_interleave(columns)
        places[..., 2] = torch.arange(columns).repeat(lines)
        cells = x.unfold(2, patch, patch).unfold(3, patch, patch)  # [batch, channels, lines, columns, patch, patch]
        rows = self.padded(self.x_embedder(cells.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)), self.x_pad_token)
        order = torch.zeros(len(x), caption.shape[1], 3)
        order[..., 0] = torch.arange(caption.shape[1]) + 1
        # The rows that fill the picture up have position 0.
        filled = nn.functional.pad(places, (0, 0, 0, rows.shape[1] - places.shape[1]))
        tables = self.rope_embedder(torch.cat([order, filled], dim=1)).movedim(1, 2).to(x)

        count, more = caption.shape[1], {"transformer_options": transformer_options}
        for layer in self.context_refiner:
            caption = layer(caption, attention_mask, tables[:, :count], **more)
        for layer in self.noise_refiner:
            rows = layer(rows, None, tables[:, count:], t, **more)
        rows = torch.cat([caption, rows], dim=1)
        for layer in self.layers:
            rows = layer(rows, None, tables, t, **more)
        cells = self.final_layer(rows[:, count : count + lines * columns])
        cells = cells.unflatten(2, (patch, patch, -1)).unflatten(1, (lines, columns))
        return -cells.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)[:, :, :height, :width]
