"""Trains the recogniser with CTC, resumably, on whatever corpus shards are in the cache.

Place in the flow: after `corpus.py` (which may still be running), before `export.py`. Rule: everything random comes from the step
number, so a run that is continued draws what an uninterrupted one would have drawn. Work is shared among processes of one thread each
(gradients averaged at every step): on a busy machine they wait for each other once a step instead of once an operation.

    nice -n 19 python -m training.train --steps 4000 --processes 2
"""

import argparse
import math
import os
import time

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F

from . import tokens
from .corpus import CACHE, FRAMES, load, shard_path
from .model import Recogniser

BATCH = 8                          # segments of 8 s per process and step
PLAIN_STEPS = 300                  # no noise and no masks at first: CTC finds its alignment sooner
PORT = "29517"                     # loopback, between the processes
CHECKPOINT = CACHE / "checkpoint.pt"


def mix_noise(features, random):
    """Noise, gain, microphone tilt and masks (SpecAugment), all on log-mel features: powers add, so log-mels add as logaddexp."""
    batch, frames, mels = features.shape
    gain = random.uniform(-4.5, 1.0, (batch, 1, 1))                               # natural log of power: -20 to +4 dB
    tilt = random.normal(0, 0.6, (batch, 1, 1)) * np.linspace(-1, 1, mels)[None, None]
    speech = features + gain + tilt
    level = speech.max(axis=(1, 2), keepdims=True)
    below = random.uniform(5.5, 16.0, (batch, 1, 1))                              # noise below the loudest bin
    slope = random.normal(0, 1.5, (batch, 1, 1)) * np.linspace(-1, 1, mels)[None, None]
    ripple = np.log(random.gamma(6.0, 1 / 6.0, features.shape) + 1e-3)
    quiet = random.random((batch, 1, 1)) < 0.6
    noise = np.where(quiet, -30.0, level - below + slope + ripple)
    mixed = np.logaddexp(np.logaddexp(speech, noise), math.log(1e-5))
    for row in range(batch):
        # Small masks: with few passes over the corpus larger ones cost more than they teach.
        width, start = int(random.integers(0, 6)), int(random.integers(0, mels - 6))
        mixed[row, :, start:start + width] = mixed[row].mean()
        for _ in range(2):
            width, start = int(random.integers(0, 12)), int(random.integers(0, frames - 12))
            mixed[row, start:start + width] = mixed[row].mean()
    return mixed.astype(np.float32)


def warp(features, random):
    """Moves the mel axis by up to a band or so: other lengths of the vocal tract."""
    mels = features.shape[2]
    out = np.empty_like(features)
    for row in range(len(features)):
        where = np.clip(np.arange(mels) * random.uniform(0.94, 1.06) + random.uniform(-0.5, 0.5), 0, mels - 1.001)
        low = where.astype(int)
        part = (where - low).astype(np.float32)
        out[row] = features[row][:, low] * (1 - part) + features[row][:, low + 1] * part
    return out


class Corpus:
    """All shards present, in memory; looks for new ones now and then."""

    def __init__(self):
        self.features, self.targets = [], []
        self.refresh()

    def refresh(self):
        while shard_path(len(self.features)).exists():
            features, targets = load(len(self.features))
            self.features.append(features)
            self.targets.append(targets)
        if not self.features:
            raise SystemExit("no corpus shard in the cache: run python -m training.corpus first")

    def batch(self, step, rank):
        """Segments drawn by the step's number, each changed anew."""
        random = np.random.default_rng([21, step, rank])
        per_shard = len(self.targets[0])
        rows = random.choice(len(self.features) * per_shard, BATCH, replace=False)
        features = np.stack([self.features[r // per_shard][r % per_shard] for r in rows]).astype(np.float32)
        targets = [self.targets[r // per_shard][r % per_shard] for r in rows]
        if step >= PLAIN_STEPS:
            features = mix_noise(warp(features, random), random)
        return (torch.from_numpy(features), torch.from_numpy(np.concatenate(targets).astype(np.int64)),
                torch.tensor([len(t) for t in targets]))


def rate_at(step, progress, peak):
    """Warm-up over the first 150 steps, then a cosine down to 2 % at progress 1 (one cycle)."""
    warm = min(1.0, (step + 1) / 150)
    return peak * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def train(rank, arguments):
    torch.set_num_threads(1)
    torch.manual_seed(22)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.processes > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=PORT)
        dist.init_process_group("gloo", rank=rank, world_size=arguments.processes)
    model = Recogniser(len(tokens.SYMBOLS)).to(device)
    parameters = list(model.parameters())
    optimiser = torch.optim.AdamW([{"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.02},
                                   {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}], betas=(0.9, 0.98))
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    step, spent = 0, 0.0
    if CHECKPOINT.exists():
        saved = torch.load(CHECKPOINT, map_location=device)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        average, step, spent = saved["average"], saved["step"], saved["cpu_seconds"]
    elif arguments.from_pack:
        from .export import weights_from_pack
        model.load_state_dict(weights_from_pack())
        average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    corpus = Corpus()
    forward = torch.compile(model, dynamic=False)
    begun, started, losses = time.process_time(), time.time(), []
    cpu_seconds = lambda: spent + arguments.processes * (time.process_time() - begun)
    if rank == 0:
        print(f"{sum(p.numel() for p in parameters) / 1e6:.2f} M parameters, {len(corpus.features)} shards, step {step}, {device}", flush=True)

    def save():
        partial = CHECKPOINT.with_suffix(".partial")
        torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "average": average, "step": step,
                    "cpu_seconds": cpu_seconds()}, partial)
        partial.rename(CHECKPOINT)

    first = clock = progress = step / arguments.steps
    while progress < 1:
        features, targets, lengths = corpus.batch(step, rank)
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, progress, arguments.peak)
        with torch.autocast(device, torch.bfloat16):
            logits = forward(features.to(device))
        log_probs = F.log_softmax(logits.float(), -1).transpose(0, 1)
        outputs = torch.full((BATCH,), FRAMES // 4)
        loss = F.ctc_loss(log_probs, targets, outputs, lengths, blank=tokens.BLANK, zero_infinity=True)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if arguments.processes > 1:
            flat = torch.cat([p.grad.flatten() for p in parameters] + [torch.tensor([clock])])
            dist.all_reduce(flat)
            flat, progress = flat[:-1], flat[-1].item() / arguments.processes    # one clock for all: the rates must stay equal
            for p, part in zip(parameters, (flat / arguments.processes).split([p.numel() for p in parameters])):
                p.grad.copy_(part.view_as(p))
        else:
            progress = clock
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        hurried = first + (1 - first) * (time.time() - started) / (60 * arguments.minutes) if arguments.minutes else 0.0
        clock = max(step / arguments.steps, hurried)
        keep = min(0.995, step / (step + 20))                                   # running average of the weights: what is exported
        for key, value in model.state_dict().items():
            average[key].lerp_(value, 1 - keep)
        losses.append(loss.item())
        if step % 25 == 0 and rank == 0:
            print(f"step {step} loss {np.mean(losses[-25:]):.3f} shards {len(corpus.features)} "
                  f"cpu {cpu_seconds():.0f} s wall {time.time() - started:.0f} s", flush=True)
        if step % 100 == 0:
            if rank == 0:
                save()
            corpus.refresh()
    if rank == 0:
        save()


def main():
    parser = argparse.ArgumentParser(description="train the recogniser")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--peak", type=float, default=2.5e-3, help="highest learning rate")
    parser.add_argument("--minutes", type=float, default=0, help="finish the learning-rate cycle within so much wall time")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--from-pack", action="store_true", help="no checkpoint: start from the weights of the committed model.onnx")
    arguments = parser.parse_args()
    if arguments.processes > 1:
        torch.multiprocessing.spawn(train, (arguments,), arguments.processes)
    else:
        train(0, arguments)


if __name__ == "__main__":
    main()
