"""Random weights under which a decoder says many different things, and comes to an end.

Small random networks repeat one token for ever. Here positions weigh more than tokens, so that what is said changes with each step; the
decoder's last normalisation has a bias, so that each token's logit can be moved by its embedding; and a direction of the
position embeddings grows with time, so that the end of a text becomes likelier.
"""
import math

import torch


def randomise(model, seed, scale=1.0):
    """Draws all weights anew: matrices with unit gain, vectors near their neutral value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * scale / math.sqrt(parameter[0].numel()))
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1.0 + 0.1 * noise)
            else:
                parameter.copy_(0.1 * noise)


def raise_logits(embedding, bias, changes):
    """Moves logits of tokens by amounts: `changes` is a list of (ids, amount). The bias becomes the unit vector of axis 0 times 3."""
    with torch.no_grad():
        bias.zero_()
        bias[0] = 3.0
        embedding[:, 0] = 0.0
        for ids, amount in changes:
            embedding[ids, 0] = amount / 3.0
