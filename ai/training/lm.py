"""The word trigram of the pack: interpolated Kneser-Ney on generated sentences, stored with back-off, and its reader.

Place in the flow: `pack.py` builds it, `decode.py` asks it. Rule: the file holds 16-bit ids and thousandths of a nat, nothing else:

    8 bytes  "AURALM01"
    u32 W    words and the two marks: ids 0..W-3 are the lines of words.txt, W-2 is <s>, W-1 is </s>
    u32 B, u32 T           numbers of bigrams and trigrams
    i16[W]   unigram log-probability        i16[W]   unigram back-off
    u32[W+1] first bigram of each word      u16[B]   second word (ascending)   i16[B] log-probability   i16[B] back-off
    u32[B+1] first trigram of each bigram   u16[T]   third word (ascending)    i16[T] log-probability

All little-endian, packed in this order. Log-probabilities are natural, in 1/1000. Lookup of w after (u, v): the trigram if stored; else
backoff(u v) if that bigram is stored, plus the bigram (v, w) if stored, else plus backoff(v) plus the unigram w.
"""

from bisect import bisect_left
from collections import Counter, defaultdict

import numpy as np

MAGIC = b"AURALM01"
DISCOUNT = 0.8
UNIFORM = 0.15                     # weight of the uniform distribution inside the unigram


def train(sentences, words, keep_bigram=1, keep_trigram=2):
    """-> bytes of the file. sentences: iterable of word lists, all in `words`."""
    ids = {word: i for i, word in enumerate(words)}
    size, start, end = len(words) + 2, len(words), len(words) + 1
    trigrams = Counter()
    for sentence in sentences:
        row = [start, start] + [ids[w] for w in sentence] + [end]
        trigrams.update(zip(row, row[1:], row[2:]))
    # Lower orders count distinct left neighbours (Kneser and Ney), except after <s>, where nothing stands to the left.
    bigrams, unigrams = Counter(), Counter()
    for (u, v, w), count in trigrams.items():
        bigrams[v, w] += count if v == start else 1
    for (v, w) in bigrams:
        unigrams[w] += 1
    total = sum(unigrams.values())
    single = np.full(size, UNIFORM / (size - 1))
    for w, count in unigrams.items():
        single[w] += (1 - UNIFORM) * count / total

    def interpolate(counts, lower):
        """counts: context -> {word: count}; -> context -> ({word: p}, back-off mass)"""
        table = {}
        for context, following in counts.items():
            mass = sum(following.values())
            left = DISCOUNT * len(following) / mass
            table[context] = ({w: max(0.0, c - DISCOUNT) / mass + left * lower(context, w) for w, c in following.items()}, left)
        return table

    by_first, by_pair = defaultdict(dict), defaultdict(dict)
    for (v, w), count in bigrams.items():
        by_first[v][w] = count
    for (u, v, w), count in trigrams.items():
        by_pair[u, v][w] = count
    pair_table = interpolate(by_first, lambda context, w: single[w])

    def pair(context, w):
        found, left = pair_table[context[1]]
        return found[w] if w in found else left * single[w]

    triple_table = interpolate(by_pair, pair)
    thousandths = lambda p: max(-32000, int(round(1000 * np.log(max(p, 1e-14)))))

    def pruned(table, lower, keep):
        """Drops rare n-grams and gives their mass back to the back-off, so that each context sums to one."""
        out = {}
        for context, (found, _) in table.items():
            kept = {w: p for w, p in found.items() if keep(context, w)}
            if kept:
                free = 1 - sum(kept.values())
                below = 1 - sum(lower(context, w) for w in kept)
                out[context] = (kept, max(free, 1e-9) / max(below, 1e-9))
        return out

    kept_triples = pruned(triple_table, pair, lambda c, w: by_pair[c][w] >= keep_trigram)
    kept_pairs = pruned(pair_table, lambda c, w: single[w], lambda c, w: by_first[c][w] >= keep_bigram)
    back1 = np.zeros(size, np.int16)
    starts1, second, log2, back2, starts2, third, log3 = [0], [], [], [], [0], [], []
    for v in range(size):
        found, left = kept_pairs.get(v, ({}, 1.0))
        back1[v] = thousandths(left)
        for w in sorted(found):
            triple, left = kept_triples.get((v, w), ({}, 1.0))
            second.append(w), log2.append(thousandths(found[w])), back2.append(thousandths(left))
            for x in sorted(triple):
                third.append(x), log3.append(thousandths(triple[x]))
            starts2.append(len(third))
        starts1.append(len(second))
    parts = [np.array([size, len(second), len(third)], "<u4"), np.array([thousandths(p) for p in single], "<i2"), back1.astype("<i2"),
             np.array(starts1, "<u4"), np.array(second, "<u2"), np.array(log2, "<i2"), np.array(back2, "<i2"),
             np.array(starts2, "<u4"), np.array(third, "<u2"), np.array(log3, "<i2")]
    return MAGIC + b"".join(part.tobytes() for part in parts)


class LanguageModel:
    def __init__(self, data):
        if data[:8] != MAGIC:
            raise ValueError(f"not a word n-gram file: it starts with {data[:8]!r} instead of {MAGIC!r}")
        size, pairs, triples = np.frombuffer(data, "<u4", 3, 8)
        at = 20

        def take(kind, count):
            nonlocal at
            array = np.frombuffer(data, kind, int(count), at)
            at += array.nbytes
            return array.tolist()

        self.size, self.start, self.end = int(size), int(size) - 2, int(size) - 1
        self.log1, self.back1 = take("<i2", size), take("<i2", size)
        self.starts1 = take("<u4", size + 1)
        self.second, self.log2, self.back2 = take("<u2", pairs), take("<i2", pairs), take("<i2", pairs)
        self.starts2 = take("<u4", pairs + 1)
        self.third, self.log3 = take("<u2", triples), take("<i2", triples)
        self.cache = {}

    def _pair(self, v, w):
        low, high = self.starts1[v], self.starts1[v + 1]
        found = bisect_left(self.second, w, low, high)
        return found if found < high and self.second[found] == w else None

    def log_prob(self, u, v, w):
        """Natural log-probability of w after u v; None stands for an unknown word and ends the context there."""
        key = (u, v, w)
        if key not in self.cache:
            self.cache[key] = self._look_up(u, v, w) / 1000
        return self.cache[key]

    def _look_up(self, u, v, w):
        if v is None:
            return self.log1[w]
        score = 0
        if u is not None:
            context = self._pair(u, v)
            if context is not None:
                low, high = self.starts2[context], self.starts2[context + 1]
                found = bisect_left(self.third, w, low, high)
                if found < high and self.third[found] == w:
                    return self.log3[found]
                score = self.back2[context]
        pair = self._pair(v, w)
        return score + (self.log2[pair] if pair is not None else self.back1[v] + self.log1[w])
