import torch


def attention_pytorch(
    q, k, v, heads, mask=None, attn_precision=None, skip_reshape=False, skip_output_reshape=False, **kwargs
):
    """q, k and v [batch, heads, rows, size] (skip_reshape) or [batch, rows, heads · size] to [batch, rows, heads ·
    size]."""
    if not skip_reshape:
        q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


attention_function = attention_pytorch  # which one was chosen on the command line; the models' modules import it
