"""The recogniser: a strictly causal convolutional CTC network, 25 outputs a second, no look-ahead.

Place in the flow: `train.py` trains it, `export.py` writes the same arithmetic as an ONNX graph with its states as tensors.
Rule: output j depends on feature frames <= 4 j + 3 only, so a run in chunks equals a run over the whole.

    features -> fixed normalisation -> conv 5 stride 2 -> conv 5 stride 2 -> 8 blocks -> RMS norm -> linear -> log-softmax
    block:  x + W2 relu(W1 rms(depthwise_conv_9(x)) + b1) + b2        (after ConvNeXt, Liu et al. 2022, made causal)
"""

import torch
import torch.nn.functional as F
from torch import nn

MELS, FRONT, WIDTH, BLOCKS, KERNEL, EXPANSION, FRONT_KERNEL = 40, 128, 256, 8, 9, 2, 5
EPSILON = 1e-5
MEAN, SCALE = -5.5, 5.0            # fixed feature normalisation: (x - MEAN) / SCALE


def rms(x, gain):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON) * gain


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.taps = nn.Parameter(torch.randn(KERNEL, WIDTH) / KERNEL ** 0.5)
        self.bias = nn.Parameter(torch.zeros(WIDTH))
        self.gain = nn.Parameter(torch.ones(WIDTH))
        self.up = nn.Linear(WIDTH, EXPANSION * WIDTH)
        self.down = nn.Linear(EXPANSION * WIDTH, WIDTH)
        nn.init.zeros_(self.down.bias)
        with torch.no_grad():
            self.down.weight.mul_(0.5)

    def forward(self, x):
        length = x.shape[1]
        padded = F.pad(x, (0, 0, KERNEL - 1, 0))
        y = self.bias
        for tap in range(KERNEL):  # a sum of shifted copies fuses under torch.compile, a grouped convolution does not
            y = y + padded[:, tap:tap + length] * self.taps[tap]
        return x + self.down(F.relu(self.up(rms(y, self.gain))))


class Recogniser(nn.Module):
    def __init__(self, symbols):
        super().__init__()
        self.front1 = nn.Conv1d(MELS, FRONT, FRONT_KERNEL, 2)
        self.front2 = nn.Conv1d(FRONT, WIDTH, FRONT_KERNEL, 2)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.gain = nn.Parameter(torch.ones(WIDTH))
        self.out = nn.Linear(WIDTH, symbols)

    def forward(self, features):
        """[N, T, 40], T a multiple of 4 -> logits [N, T / 4, symbols]"""
        x = ((features - MEAN) / SCALE).transpose(1, 2)
        x = F.relu(self.front1(F.pad(x, (FRONT_KERNEL - 2, 0))))
        x = F.relu(self.front2(F.pad(x, (FRONT_KERNEL - 2, 0)))).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.out(rms(x, self.gain))
