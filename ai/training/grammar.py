"""Reads the word lists and sentence rules and expands them into random sentences.

Place in the flow: first step; `corpus.py` draws from it. Rule: everything comes from the `grammar_*.txt` files of this folder and one seed.
"""

import random
import re
from pathlib import Path

FOLDER = Path(__file__).parent
VOWELS = "aeiou"
# Verbs of more than one syllable whose last consonant doubles although the spelling rule below would not say so.
DOUBLING = {"stop", "plan", "drop", "ship", "chat", "hug", "pop", "rob", "rub", "skip", "plug", "trap", "trip", "wrap", "knit", "mop",
            "clap", "nod", "tap", "pin", "grab", "prefer", "refer", "occur", "admit", "regret", "travel", "cancel", "quarrel", "shop",
            "fit", "unplug", "quit", "swim", "run", "sit", "get", "put", "let", "cut", "set", "hit", "win", "dig", "bet", "split", "shut",
            "begin", "forget", "signal"}


def plural(noun):
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + ("es" if re.search(r"(s|x|z|ch|sh)$", noun) else "s")


def verb_forms(entry):
    """`go/went/gone` or `work` -> {base, s, past, pp, ing}."""
    base, *rest = entry.split("/")
    stem = base + base[-1] if base in DOUBLING else base
    if rest:
        past, participle = rest
    else:
        past = base + "d" if base.endswith("e") else base[:-1] + "ied" if re.search(r"[^aeiou]y$", base) else stem + "ed"
        participle = past
    if base.endswith("ie"):
        ing = base[:-2] + "ying"
    elif base.endswith("e") and not base.endswith(("ee", "oe", "ye")) and base != "be":
        ing = base[:-1] + "ing"
    else:
        ing = stem + "ing"
    third = {"be": "is", "have": "has"}.get(base) or (base + "es" if base.endswith("o") else plural(base))
    return {"base": base, "s": third, "past": past, "pp": participle, "ing": ing}


class Grammar:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.lists, self.rules, self.verbs = {}, {}, {}
        self._read_lists()
        self._read_rules()

    def _read_lists(self):
        entries = {}
        for name in ("grammar_nouns.txt", "grammar_words.txt"):
            key = None
            for line in (FOLDER / name).read_text().splitlines():
                if not line or line.startswith("#"):
                    continue
                if not line.startswith(" "):
                    key, _, line = line.partition(":")
                    entries.setdefault(key, [])
                entries[key] += line.split()
        for key in ("irregular", "regular"):
            for entry in entries.pop(key):
                forms = verb_forms(entry)
                self.verbs.setdefault(forms["base"], forms)
        for key, words in entries.items():
            singular, plurals = [], []
            for word in words:
                one, _, many = word.partition("/")
                one = one.replace("_", " ")
                singular.append(one)
                if many != "-":
                    plurals.append(many or plural(one))
            self.lists[key] = singular
            self.lists[key + ".pl"] = plurals

    def _read_rules(self):
        key = None
        for line in (FOLDER / "grammar_rules.txt").read_text().splitlines():
            if not line or line.startswith("#"):
                continue
            if not line.startswith(" "):
                key, _, line = line.partition(" = ")
                self.rules[key] = []
            # A bar inside [..] belongs to the optional choice, one outside separates alternatives.
            alternatives = re.split(r"\|(?![^\[]*\])", line)
            self.rules[key] += [a.strip() for a in alternatives if a.strip()]

    def vocabulary(self):
        """Every single word that the lists, the verbs and the rules can produce, sorted."""
        words = set()
        for name, entries in self.lists.items():
            if name.endswith(".pl") and name[:-3] in ("adjective", "adverb", "function", "comparative", "superlative", "contraction", "name",
                                                        "surname", "month", "weekday", "language", "country", "colour", "city", "subject"):
                continue
            for entry in entries:
                words.update(entry.split())
        for forms in self.verbs.values():
            words.update(forms.values())
        for alternatives in self.rules.values():
            for alternative in alternatives:
                bare = re.sub(r"<[^>]*>|\{[^}]*\}", " ", alternative)
                words.update(re.findall(r"[a-z']+", bare))
        return sorted(words)

    def sentence(self):
        return " ".join(self._expand("sent", None, 0).split())

    def _expand(self, name, form, depth):
        if name.startswith("a "):
            text = self._expand(name[2:], form, depth)
            return ("an " if text[:1] in VOWELS and not text.startswith(("uni", "use", "euro", "one")) else "a ") + text
        if ":" in name:
            name, form = name.split(":")
        if name == "anyverb":
            return self.random.choice(list(self.verbs.values()))[form]
        if name == "ved":
            return self.random.choice(list(self.verbs.values()))["pp"]
        if name in self.lists:
            return self.random.choice(self.lists[name])
        alternatives = self.rules[name]
        choice = self.random.choice(alternatives)
        # Clauses inside clauses stay short: beyond this depth only alternatives without another clause are drawn.
        for _ in range(20):
            if depth < 6 or not re.search(r"<sents>|<vp:|<base_short>", choice):
                break
            choice = self.random.choice(alternatives)
        choice = re.sub(r"\[([^\]]*)\]", lambda m: self.random.choice(m.group(1).split("|")), choice)

        def fill(match):
            if match.group(1):
                return self._expand(match.group(1), form if name == "vp" else None, depth + 1)
            return self.verbs[match.group(2)][form or "base"]

        # Inside a verb phrase only the verb itself takes the form; what follows is expanded on its own terms.
        return re.sub(r"<([^>]+)>|\{([^}]+)\}", fill, choice)


if __name__ == "__main__":
    import sys
    grammar = Grammar(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    for _ in range(30):
        print(grammar.sentence())
    print(len(grammar.vocabulary()), "words")
