"""Small Marian, M2M100 and NLLB translators of random weights in Optimum's layout, and what `transformers` makes of texts with them.

    python -m parity translation

Each family has a folder with a pack, and `expected.json`: how texts are cut into tokens, and sequences that `generate` gives.
"""
import json
import os
import pathlib
import shutil
import tempfile

import sentencepiece
import torch
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    NllbTokenizerFast,
)

from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

from .export import exported
from .sentences import sentences
from .weights import randomise

D = 24
TEXTS = [
    "The captain opens the red door before breakfast.",
    "Every listener is looking for a song about rivers",
    "unsere Nachbarin beschreibt zwei Tassen Tee, um halb zehn.",
    "Ma sœur cherche dix-sept lettres dans le port !",
    "船長は朝食の前に古いラジオを直します。",
    "a",
    "Наш сосед чинит старое радио, 2 cups & 17 letters; the new teacher cannot find the weather report while it rains.",
]
# For the tokenizers alone.
ODD = [
    "",
    " ",
    "  two  spaces\tand a tab\n",
    "ｆｕｌｌ ｗｉｄｔｈ № ½ ﬁne … “quoted” — x²",
    "e\u0301 combined and é composed, ẞ",
    "emoji 🙂🙂 and 漢字 and עברית",
    "\u00a0no\u00adbreak\u200b\ufeff",
    "▁already marked ▁▁",
    "0123456789 1,234.56 %$#@!",
    ">>de<< not first >>fr<<",
]


def spm(folder, name, lines, size, kind, rule="nmt_nfkc"):
    # The file keeps the paths of its training: short ones.
    os.chdir(folder)
    text = pathlib.Path(f"{name}.txt")
    text.write_text("\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=name,
        vocab_size=size,
        model_type=kind,
        character_coverage=0.999,
        hard_vocab_limit=False,
        normalization_rule_name=rule,
        num_threads=1,
        minloglevel=2,
    )
    os.chdir("/")
    return pathlib.Path(folder) / f"{name}.model"


def pieces(path):
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return [model.id_to_piece(i) for i in range(model.get_piece_size()) if not model.is_control(i) and not model.is_unknown(i)]


def vary(model, seed, eos, end, scale=1.0):
    """Weights under which each step says something else, and the end comes now and then."""
    randomise(model, seed, scale)
    inner = model.model
    with torch.no_grad():
        embedding = inner.shared.weight
        embedding.div_(embedding.norm(dim=1, keepdim=True)).mul_(0.12)
        for layer in inner.decoder.layers:
            layer.encoder_attn.q_proj.weight.mul_(8.0)
            layer.encoder_attn.v_proj.weight.mul_(1.2)
            layer.self_attn.q_proj.weight.mul_(4.0)
            layer.fc1.weight.mul_(2.0)
        last = inner.decoder.layer_norm if hasattr(inner.decoder, "layer_norm") else inner.decoder.layers[-1].final_layer_norm
        last.weight.mul_(14.0)
        last.bias.zero_()
        last.bias[0] = 1.0
        embedding[:, 0] = 0.0
        embedding[eos, 0] = end
    # Positions are not saved: they are sinusoids again, as in the exported graphs.
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        return type(model).from_pretrained(saved).eval()


def marian(folder):
    with tempfile.TemporaryDirectory() as made:
        source = spm(made, "source", sentences(seed=1), 400, "unigram")
        target = spm(made, "target", sentences(seed=2), 360, "unigram", "identity")
        shutil.copy(source, folder / "source.spm")
        shutil.copy(target, folder / "target.spm")
    vocabulary = {"</s>": 0, "<unk>": 1}
    for piece in pieces(folder / "source.spm") + pieces(folder / "target.spm") + [">>de<<", ">>fr<<", ">>jpn<<"]:
        vocabulary.setdefault(piece, len(vocabulary))
    vocabulary["<pad>"] = pad = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    tokenizer = MarianTokenizer(str(folder / "source.spm"), str(folder / "target.spm"), str(folder / "vocab.json"), model_max_length=128)
    (folder / "tokenizer_config.json").write_text(json.dumps({"source_lang": "eng", "target_lang": "mul", "model_max_length": 128}))
    config = MarianConfig(
        vocab_size=len(vocabulary),
        d_model=D,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=2 * D,
        decoder_ffn_dim=2 * D,
        max_position_embeddings=128,
        pad_token_id=pad,
        eos_token_id=0,
        decoder_start_token_id=pad,
        scale_embedding=True,
        activation_function="swish",
    )
    model = MarianMTModel(config).eval()
    with torch.no_grad():
        model.final_logits_bias.copy_(0.1 * torch.randn(1, len(vocabulary), generator=torch.Generator().manual_seed(4)))
    model = vary(model, 5, 0, 4.0)
    settings = dict(
        bad_words_ids=[[pad]],
        bos_token_id=0,
        decoder_start_token_id=pad,
        eos_token_id=0,
        forced_eos_token_id=0,
        max_length=64,
        num_beams=4,
        pad_token_id=pad,
        renormalize_logits=True,
    )
    return tokenizer, model, settings


def m2m100_config(size, **ids):
    return M2M100Config(
        vocab_size=size,
        d_model=D,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=2 * D,
        decoder_ffn_dim=2 * D,
        max_position_embeddings=128,
        **ids,
    )


def m2m100(folder):
    with tempfile.TemporaryDirectory() as made:
        shutil.copy(spm(made, "m2m", sentences(seed=3), 500, "bpe"), folder / "sentencepiece.bpe.model")
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    for piece in pieces(folder / "sentencepiece.bpe.model"):
        vocabulary.setdefault(piece, len(vocabulary))
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    languages = [f"__{code}__" for code in FAIRSEQ_LANGUAGE_CODES["m2m100"]]
    files = [str(folder / name) for name in ("vocab.json", "sentencepiece.bpe.model")]
    tokenizer = M2M100Tokenizer(*files, additional_special_tokens=languages)
    with tempfile.TemporaryDirectory() as made:
        tokenizer.save_pretrained(made)
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            shutil.copy(pathlib.Path(made) / name, folder / name)
    model = M2M100ForConditionalGeneration(m2m100_config(len(vocabulary) + 108)).eval()
    model = vary(model, 4, 2, 4.0)
    settings = dict(bos_token_id=0, decoder_start_token_id=2, eos_token_id=2, pad_token_id=1, early_stopping=True, max_length=60, num_beams=5)
    return tokenizer, model, settings


def nllb(folder):
    with tempfile.TemporaryDirectory() as made:
        model_file = spm(made, "nllb", sentences(seed=4), 450, "bpe")
        tokenizer = NllbTokenizerFast(vocab_file=str(model_file), src_lang="eng_Latn")
        saved = pathlib.Path(made) / "saved"
        tokenizer.save_pretrained(saved)
        written = json.loads((saved / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(written, ensure_ascii=False, separators=(",", ":")))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "NllbTokenizer", "src_lang": "eng_Latn"}))
    model = M2M100ForConditionalGeneration(m2m100_config(len(tokenizer))).eval()
    model = vary(model, 3, 2, 4.0)
    settings = dict(bos_token_id=0, decoder_start_token_id=2, eos_token_id=2, pad_token_id=1, max_length=50, num_beams=4, no_repeat_ngram_size=3)
    return tokenizer, model, settings


FAMILIES = {
    "marian": (marian, [("", ">>de<<"), ("", "")]),
    "m2m100": (m2m100, [("en", "de"), ("ru", "ja")]),
    "nllb": (nllb, [("eng_Latn", "deu_Latn"), ("jpn_Jpan", "fra_Latn")]),
}

OPTIONS = [
    {},
    {"num_beams": 1},
    {"num_beams": 4, "length_penalty": 1.4},
    {"num_beams": 4, "length_penalty": 0.6, "early_stopping": True},
    {"num_beams": 3, "early_stopping": "never", "no_repeat_ngram_size": 2},
    {"num_beams": 2, "max_length": 12},
    {"num_beams": 1, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
]


def translated(family, tokenizer, model, source, target, texts, options):
    arguments = dict(options)
    if family == "marian":
        asked = [f"{target} {text}" if target else text for text in texts]
    else:
        tokenizer.src_lang = source
        asked = texts
        arguments["forced_bos_token_id"] = tokenizer.convert_tokens_to_ids(target if family == "nllb" else f"__{target}__")
    inputs = tokenizer(asked, return_tensors="pt", padding=True)
    with torch.no_grad():
        sequences = model.generate(**inputs, **arguments).tolist()
    pad = model.config.pad_token_id
    start = model.generation_config.decoder_start_token_id
    trimmed = []
    for sequence in sequences:
        sequence = sequence[1:]
        while sequence and sequence[-1] == pad:
            sequence.pop()
        trimmed.append(sequence)
    del start
    return {
        "source": source,
        "target": target,
        "texts": texts,
        "options": options,
        "inputs": [[i for i, kept in zip(row, mask) if kept] for row, mask in zip(inputs.input_ids.tolist(), inputs.attention_mask.tolist())],
        "tokens": trimmed,
        "translations": tokenizer.batch_decode(sequences, skip_special_tokens=True, clean_up_tokenization_spaces=False),
    }


def make_family(family, folder):
    make_pack, pairs = FAMILIES[family]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.manual_seed(1)
    tokenizer, model, settings = make_pack(folder)
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    model.generation_config._from_model_config = False
    model.config.to_json_file(folder / "config.json")
    model.generation_config.to_json_file(folder / "generation_config.json")
    graphs = ["encoder_model", "decoder_model_merged"] + (["decoder_model", "decoder_with_past_model"] if family == "marian" else [])
    exported(model, folder, "text2text-generation-with-past", graphs=graphs)
    cases = []
    for source, target in pairs:
        for options in OPTIONS:
            cases.append(translated(family, tokenizer, model, source, target, TEXTS, options))
        # Alone: nothing is padded.
        for text in TEXTS[:3]:
            cases.append(translated(family, tokenizer, model, source, target, [text], {}))
    cut = []
    for text in TEXTS + ODD + sentences(60, seed=9):
        ids = tokenizer(text).input_ids
        cut.append({"text": text, "ids": ids, "back": tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)})
    sets = {"source": pairs[-1][0], "tokenizer": cut, "cases": cases}
    (folder / "expected.json").write_text(json.dumps(sets, ensure_ascii=False, indent=None, separators=(",", ":")).replace('{"source"', '\n{"source"'))
    spoken = [sequence for case in cases for sequence in case["tokens"]]
    counts = [len(set(sequence)) for sequence in spoken]
    print(f"{family}: {len(spoken)} sequences, {sum(map(len, spoken))} tokens, {len(set(sum(spoken, [])))} distinct, {sum(counts) / len(counts):.1f} in each")


def make(folder: pathlib.Path):
    """Writes the families into folders of `folder`."""
    for family in FAMILIES:
        make_family(family, folder / family)
