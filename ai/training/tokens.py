"""The model's output units: letters and the letter groups that English spells one sound with.

Place in the flow: `corpus.py` turns words into targets, `export.py` writes `tokens.txt` and the lexicon.
Rule: id 0 is the CTC blank, id 1 is U+2581, emitted after every word; a word has one spelling, longest group first.
"""

BLANK, WORD_END = 0, 1
GROUPS = """th sh ch ph wh ck qu ng nk kn wr gh igh eigh augh ough tch dge ing tion sion
ee ea oo ou ow ai ay oi oy au aw ie ei ey ew ue oa ar er ir or ur ear eer air are ore our oar
ll ss tt ff pp mm nn rr cc dd gg bb zz""".split()
SYMBOLS = ["<blank>", "\u2581"] + list("abcdefghijklmnopqrstuvwxyz'") + GROUPS
ID = {symbol: index for index, symbol in enumerate(SYMBOLS)}
LONGEST = max(map(len, GROUPS))


def spell(word):
    """Token ids of a word of a-z and apostrophes, without the word end."""
    ids, at = [], 0
    while at < len(word):
        for length in range(min(LONGEST, len(word) - at), 0, -1):
            piece = word[at:at + length]
            if piece in ID:
                ids.append(ID[piece])
                at += length
                break
        else:
            raise ValueError(f"no token spells {word[at]!r} in {word!r}: words are made of a-z and apostrophes")
    return ids


def encode(text):
    return [i for word in text.split() for i in spell(word) + [WORD_END]]


def decode(ids):
    return "".join(SYMBOLS[i] for i in ids).replace("\u2581", " ").strip()
