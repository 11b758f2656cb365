"""A few hundred lines of text to train small tokenizers on: sentences by a few patterns, in five languages and three scripts."""
import random

PATTERNS = [
    (
        ["the captain", "our neighbour", "a careful engineer", "the new teacher", "my sister", "every listener"],
        ["opens", "repairs", "remembers", "describes", "cannot find", "is looking for"],
        ["the red door", "an old radio", "seventeen letters", "the weather report", "two cups of tea", "a song about rivers"],
        ["before breakfast.", "in the harbour!", "while it rains,", "at half past nine.", "without a word?", "again & again;"],
    ),
    (
        ["der Kapitän", "unsere Nachbarin", "ein müder Lehrer", "meine Schwester", "jeder Zuhörer"],
        ["öffnet", "repariert", "beschreibt", "findet", "sucht"],
        ["die rote Tür", "ein altes Radio", "siebzehn Briefe", "den Wetterbericht", "zwei Tassen Tee"],
        ["vor dem Frühstück.", "im Hafen!", "während es regnet,", "um halb zehn.", "ohne ein Wort?"],
    ),
    (
        ["le capitaine", "notre voisine", "un professeur fatigué", "ma sœur", "chaque auditeur"],
        ["ouvre", "répare", "décrit", "trouve", "cherche"],
        ["la porte rouge", "une vieille radio", "dix-sept lettres", "le bulletin météo", "deux tasses de thé"],
        ["avant le déjeuner.", "dans le port !", "pendant qu'il pleut,", "à neuf heures et demie.", "sans un mot ?"],
    ),
    (
        ["капитан", "наш сосед", "новая учительница", "моя сестра"],
        ["открывает", "чинит", "описывает", "ищет"],
        ["красную дверь", "старое радио", "семнадцать писем", "прогноз погоды"],
        ["до завтрака.", "в гавани!", "пока идёт дождь,", "без слов?"],
    ),
    (
        ["船長は", "隣の人は", "新しい先生は", "妹は"],
        ["朝食の前に", "港で", "雨の中で", "九時半に"],
        ["赤いドアを", "古いラジオを", "手紙を", "天気予報を"],
        ["開けます。", "直します。", "探しています。", "見つけました。"],
    ),
]


def sentences(count=400, seed=1):
    """Lines, the same for the same seed."""
    choose = random.Random(seed)
    lines = []
    while len(lines) < count:
        pattern = PATTERNS[len(lines) % len(PATTERNS)]
        words = [choose.choice(part) for part in pattern]
        line = ("" if "は" in words[0] else " ").join(words)
        lines.append(line[0].upper() + line[1:] if choose.random() < 0.7 else line)
    return lines
