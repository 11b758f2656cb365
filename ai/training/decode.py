"""Greedy and prefix-beam CTC decoding; the beam knows a lexicon and a word trigram and leaves an open path for other words.

Place in the flow: last step of recognition; the server's decoder follows it. Rule: one `Beam` per stream, fed frame by frame; after any
frame `best()` is the current text, after the last one `finish()`.

Prefix beam search (Graves 2006; Hannun 2014): a hypothesis is a token prefix with two log-probabilities, ending in blank or not. Its rank
adds `lm` = the sum over its words of lm_weight * ln p(word | two before) + word_bonus, and unknown_penalty for a word outside the lexicon
(charged once, when the prefix leaves the lexicon's tree, or at the word's end when that spells no word).
"""

import math

from .tokens import BLANK, WORD_END

NEVER = -1e30


def log_add(a, b):
    if a < b:
        a, b = b, a
    return a if b <= NEVER else a + math.log1p(math.exp(b - a))


def greedy(log_probs, symbols):
    ids = log_probs.argmax(-1)
    kept = [i for t, i in enumerate(ids) if i != BLANK and (t == 0 or i != ids[t - 1])]
    return " ".join("".join(symbols[i] for i in kept).replace("\u2581", " ").split())


class Lexicon:
    """Tree over token ids; nodes are dicts, the word's id under key -1."""

    def __init__(self, spellings):
        self.words, self.root = [], {}
        for word, ids in spellings:
            node = self.root
            for i in ids:
                node = node.setdefault(i, {})
            node.setdefault(-1, len(self.words))   # of two words with one spelling the first wins
            self.words.append(word)


class Hypothesis:
    __slots__ = ("words", "piece", "node", "context", "lm", "last", "blank", "token")

    def __init__(self, words, piece, node, context, lm, last):
        self.words, self.piece, self.node, self.context, self.lm, self.last = words, piece, node, context, lm, last
        self.blank = self.token = NEVER

    def acoustic(self):
        return log_add(self.blank, self.token)


class Beam:
    def __init__(self, symbols, lexicon, model, beam=16, lm_weight=0.5, word_bonus=1.0, unknown_penalty=-8.0, token_threshold=-7.0,
                 beam_threshold=14.0, **_):
        self.symbols, self.lexicon, self.model = symbols, lexicon, model
        self.width, self.lm_weight, self.word_bonus, self.unknown_penalty = beam, lm_weight, word_bonus, unknown_penalty
        self.token_threshold, self.beam_threshold = token_threshold, beam_threshold
        first = Hypothesis((), (), lexicon.root, (model.start, model.start), 0.0, None)
        first.blank = 0.0
        self.hypotheses = [first]

    def _end_word(self, h):
        """-> (words, context, lm) after the word in progress."""
        word = h.node.get(-1) if h.node is not None else None
        if word is not None:
            score = h.lm + self.lm_weight * self.model.log_prob(*h.context, word) + self.word_bonus
            return h.words + (self.lexicon.words[word],), (h.context[1], word), score
        score = h.lm + self.word_bonus + (self.unknown_penalty if h.node is not None else 0.0)
        return h.words + ("".join(self.symbols[i] for i in h.piece),), (h.context[1], None), score

    def push(self, frame):
        """frame: natural log-probabilities [V] of one output."""
        frame = frame.tolist()
        candidates = [i for i, p in enumerate(frame) if p > self.token_threshold and i != BLANK]
        table = {}

        def slot(words, piece, last, make):
            key = (words, piece, last == WORD_END)
            found = table.get(key)
            if found is None:
                found = table[key] = make()
            return found

        for h in self.hypotheses:
            same = slot(h.words, h.piece, h.last, lambda: Hypothesis(h.words, h.piece, h.node, h.context, h.lm, h.last))
            total = h.acoustic()
            same.blank = log_add(same.blank, total + frame[BLANK])
            if h.last is not None:
                same.token = log_add(same.token, h.token + frame[h.last])
            for i in candidates:
                score = (h.blank if i == h.last else total) + frame[i]
                if score <= NEVER / 2:
                    continue
                if i == WORD_END:
                    if not h.piece:
                        continue                                   # a word has at least one token
                    words, context, lm = self._end_word(h)
                    new = slot(words, (), i, lambda: Hypothesis(words, (), self.lexicon.root, context, lm, i))
                else:
                    node = h.node.get(i) if h.node is not None else None
                    lm = h.lm + (self.unknown_penalty if node is None and h.node is not None else 0.0)
                    piece = h.piece + (i,)
                    new = slot(h.words, piece, i, lambda: Hypothesis(h.words, piece, node, h.context, lm, i))
                new.token = log_add(new.token, score)
        ranked = sorted(table.values(), key=lambda h: -(h.acoustic() + h.lm))[:self.width]
        worst = ranked[0].acoustic() + ranked[0].lm - self.beam_threshold
        self.hypotheses = [h for h in ranked if h.acoustic() + h.lm >= worst]

    def best(self):
        """Words so far and the letters of the word in progress."""
        h = self.hypotheses[0]
        return " ".join(h.words), "".join(self.symbols[i] for i in h.piece)

    def finish(self):
        """Ends the word in progress and the sentence; -> text."""
        best, text = NEVER * 2, ""
        for h in self.hypotheses:
            words, context, lm = self._end_word(h) if h.piece else (h.words, h.context, h.lm)
            score = h.acoustic() + lm + self.lm_weight * self.model.log_prob(*context, self.model.end)
            if score > best:
                best, text = score, " ".join(words)
        return text


def beam_text(log_probs, symbols, lexicon, model, **options):
    beam = Beam(symbols, lexicon, model, **options)
    for frame in log_probs:
        beam.push(frame)
    return beam.finish()
