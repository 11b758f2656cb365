"""Trains the recogniser with CTC, resumably, on whatever corpus shards are in the cache.

Place in the flow: after `corpus.py` (which may still be running), before `export.py`. Rule: everything random comes from the step
number, so a run that is continued draws what an uninterrupted one would have drawn.

    nice -n 19 python -m training.train --steps 4000 --threads 2
"""

import argparse
import math
import time

import numpy as np
import torch
import torch.nn.functional as F

from . import tokens
from .corpus import CACHE, FRAMES, load, shard_path
from .model import Recogniser

BATCH = 32
CHECKPOINT = CACHE / "checkpoint.pt"


def mix_noise(features, random):
    """Noise, gain, microphone tilt and masks (SpecAugment), all on log-mel features: powers add, so log-mels add as logaddexp."""
    batch, frames, mels = features.shape
    gain = random.uniform(-4.5, 1.0, (batch, 1, 1))                               # natural log of power: -20 to +4 dB
    tilt = random.normal(0, 0.6, (batch, 1, 1)) * np.linspace(-1, 1, mels)[None, None]
    speech = features + gain + tilt
    level = speech.max(axis=(1, 2), keepdims=True)
    below = random.uniform(4.0, 16.0, (batch, 1, 1))                              # noise below the loudest bin
    slope = random.normal(0, 1.5, (batch, 1, 1)) * np.linspace(-1, 1, mels)[None, None]
    ripple = np.log(random.gamma(6.0, 1 / 6.0, features.shape) + 1e-3)
    quiet = random.random((batch, 1, 1)) < 0.35
    noise = np.where(quiet, -30.0, level - below + slope + ripple)
    mixed = np.logaddexp(np.logaddexp(speech, noise), math.log(1e-5))
    for row in range(batch):
        for _ in range(2):
            width, start = int(random.integers(0, 7)), int(random.integers(0, mels - 6))
            mixed[row, :, start:start + width] = mixed[row].mean()
        for _ in range(3):
            width, start = int(random.integers(0, 20)), int(random.integers(0, frames - 20))
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

    def batch(self, step):
        """32 segments drawn by the step's number, each changed anew."""
        random = np.random.default_rng([21, step])
        per_shard = len(self.targets[0])
        rows = random.choice(len(self.features) * per_shard, BATCH, replace=False)
        features = np.stack([self.features[r // per_shard][r % per_shard] for r in rows]).astype(np.float32)
        targets = [self.targets[r // per_shard][r % per_shard] for r in rows]
        features = mix_noise(warp(features, random), random)
        return (torch.from_numpy(features), torch.from_numpy(np.concatenate(targets).astype(np.int64)),
                torch.tensor([len(t) for t in targets]))


def rate_at(step, steps, peak):
    """Warm-up over the first 150 steps, then a cosine down to 2 % (one cycle)."""
    if step < 150:
        return peak * (step + 1) / 150
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - 150) / max(1, steps - 150)))))


def main():
    parser = argparse.ArgumentParser(description="train the recogniser")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--peak", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so much wall time, keeping a checkpoint")
    parser.add_argument("--from-pack", action="store_true", help="no checkpoint: start from the weights of the committed model.onnx")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(22)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Recogniser(len(tokens.SYMBOLS)).to(device)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}], betas=(0.9, 0.98))
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
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(corpus.features)} shards, step {step}, {device}", flush=True)

    def save():
        partial = CHECKPOINT.with_suffix(".partial")
        torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "average": average, "step": step,
                    "cpu_seconds": spent + time.process_time() - begun}, partial)
        partial.rename(CHECKPOINT)

    begun, started, losses = time.process_time(), time.time(), []
    while step < arguments.steps and time.time() - started < arguments.minutes * 60:
        features, targets, lengths = corpus.batch(step)
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, arguments.steps, arguments.peak)
        with torch.autocast(device, torch.bfloat16):
            logits = forward(features.to(device))
        log_probs = F.log_softmax(logits.float(), -1).transpose(0, 1)
        outputs = torch.full((BATCH,), FRAMES // 4)
        loss = F.ctc_loss(log_probs, targets, outputs, lengths, blank=tokens.BLANK, zero_infinity=True)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        keep = min(0.998, step / (step + 20))                                   # running average of the weights: what is exported
        for key, value in model.state_dict().items():
            average[key].lerp_(value, 1 - keep)
        losses.append(loss.item())
        if step % 25 == 0:
            print(f"step {step} loss {np.mean(losses[-25:]):.3f} shards {len(corpus.features)} "
                  f"cpu {spent + time.process_time() - begun:.0f} s wall {time.time() - started:.0f} s", flush=True)
        if step % 100 == 0:
            save()
            corpus.refresh()
    save()


if __name__ == "__main__":
    main()
