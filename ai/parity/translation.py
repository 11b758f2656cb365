"""Small translation models of random weights in Optimum's layout (Marian, M2M100, NLLB), and what `transformers` writes with them.

    python -m parity translation

Each pack holds its tokenizer's files and the networks (encoder; merged and split decoders). `expected.json`: how texts are tokenised,
and what `generate` answers, greedily and with beams.
"""
import json
import pathlib
import shutil
import tempfile

import sentencepiece
import torch
from optimum.exporters.onnx import main_export
from tokenizers import SentencePieceBPETokenizer
from transformers import GenerationConfig, M2M100Config, M2M100ForConditionalGeneration, M2M100Tokenizer, MarianConfig, MarianMTModel, MarianTokenizer, NllbTokenizerFast
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

from .sentences import sentences
from .weights import raise_logits, randomise

SIZES = dict(d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48)
# How much likelier the end of a text is than it would be: so that texts of several lengths come out.
END = 4.5

TEXTS = [
    "The captain opens the red door before breakfast.",
    "My sister",
    "our neighbour cannot find seventeen letters in the harbour! Every listener describes an old radio while it rains,",
    "Le capitaine répare   une vieille radio à neuf heures et demie.",
    "a",
    "  spaces \t at both ends and a tab  ",
    "ＦＵＬＬ ｗｉｄｔｈ ﬁ ligature ½ e\u0301",
    "привет 日本語 🙂 unknown ¬ signs",
    "Zwei Tassen Tee? Zwei Tassen Tee! Zwei Tassen Tee.",
]


def spm(folder, name, lines, size, kind="unigram"):
    text = pathlib.Path(folder) / "lines.txt"
    text.write_text("\n".join(lines), encoding="utf-8")
    prefix = str(pathlib.Path(folder) / name)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=prefix, vocab_size=size, model_type=kind, character_coverage=1.0, hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc", bos_id=-1, eos_id=0, unk_id=1, pad_id=-1, minloglevel=2, num_threads=1,
    )
    text.unlink()
    pathlib.Path(prefix + ".vocab").unlink()
    model = sentencepiece.SentencePieceProcessor(model_file=prefix + ".model")
    return [model.id_to_piece(index) for index in range(model.get_piece_size())]


MERGED, SPLIT = ["decoder_model_merged"], ["decoder_model", "decoder_with_past_model"]


def export(model, folder, decoders):
    """The encoder, and of the merged decoder and the two that it was merged from those named."""
    with tempfile.TemporaryDirectory() as saved, tempfile.TemporaryDirectory() as out:
        model.save_pretrained(saved)
        for name in pathlib.Path(folder).iterdir():
            if name.is_file():
                shutil.copy(name, saved)
        main_export(saved, output=out, task="text2text-generation-with-past", do_validation=False, no_post_process=False)
        for name in ["encoder_model", *decoders]:
            shutil.copy(pathlib.Path(out) / f"{name}.onnx", folder)
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)


def as_saved(model):
    """The model as it is read again: positions that are no weights are what they must be, whatever was drawn for them."""
    generation = model.generation_config
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        model = type(model).from_pretrained(saved).eval()
    model.generation_config = generation
    return model


def answers(model, tokenizer, texts, options, **forced):
    """What `generate` writes for texts together and alone."""
    found = []
    for option in options:
        for batch in [texts] + [[text] for text in texts[:4]]:
            inputs = tokenizer(batch, return_tensors="pt", padding=True)
            with torch.no_grad():
                ids = model.generate(**inputs, **forced, **option)
            found.append({"texts": batch, "options": option, "ids": ids.tolist(), "decoded": tokenizer.batch_decode(ids, skip_special_tokens=True)})
    return found


OPTIONS = [
    dict(num_beams=1),
    dict(num_beams=4),
    dict(num_beams=3, length_penalty=0.6, no_repeat_ngram_size=3),
    dict(num_beams=4, early_stopping=True, max_length=24),
    dict(num_beams=2, early_stopping="never", length_penalty=1.4, max_length=30),
    dict(num_beams=1, no_repeat_ngram_size=2, max_length=16),
]


def marian(folder):
    folder.mkdir(parents=True)
    lines = sentences()
    source = spm(folder, "source", [line for line in lines if line.isascii() or "é" in line], 260)
    target = spm(folder, "target", lines, 320)
    (folder / "source.model").rename(folder / "source.spm")
    (folder / "target.model").rename(folder / "target.spm")
    pieces = ["</s>", "<unk>", ">>deu<<", ">>fra<<"]
    pieces += sorted({piece for piece in source + target if piece not in pieces})
    pieces.append("<pad>")
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(pieces)}, ensure_ascii=False, indent=0), encoding="utf-8")
    tokenizer = MarianTokenizer(
        str(folder / "source.spm"), str(folder / "target.spm"), str(folder / "vocab.json"), source_lang="en", target_lang="deu"
    )
    tokenizer.save_pretrained(folder)
    pad = len(pieces) - 1
    config = MarianConfig(
        **SIZES, vocab_size=len(pieces), decoder_vocab_size=len(pieces), pad_token_id=pad, eos_token_id=0, bos_token_id=0, decoder_start_token_id=pad, forced_eos_token_id=0,
        scale_embedding=True, max_position_embeddings=128, activation_function="swish",
    )
    model = MarianMTModel(config).eval()
    randomise(model, 31, scale=1.7)
    raise_logits(model.model.shared.weight, model.model.decoder.layers[-1].final_layer_norm.bias, [([0], 0.7 * END), ([1], -9.0)])
    with torch.no_grad():
        model.final_logits_bias.copy_(torch.linspace(-0.2, 0.2, len(pieces))[None])
    model.generation_config = GenerationConfig(
        bad_words_ids=[[pad]], num_beams=4, max_length=48, forced_eos_token_id=0, decoder_start_token_id=pad, pad_token_id=pad, eos_token_id=0, bos_token_id=0
    )
    model = as_saved(model)
    export(model, folder, MERGED + SPLIT)
    texts = TEXTS + [">>fra<< The captain opens the red door."]
    return {
        "tokens": [{"text": text, "ids": tokenizer(text)["input_ids"]} for text in texts],
        "answers": answers(model, tokenizer, texts, OPTIONS + [dict(num_beams=4, renormalize_logits=True, max_length=32)]),
    }


def m2m100(folder):
    folder.mkdir(parents=True)
    pieces = spm(folder, "sentencepiece.bpe", sentences(), 420, kind="bpe")
    words = ["<s>", "<pad>", "</s>", "<unk>"] + [piece for piece in pieces if piece not in ("<unk>", "<s>", "</s>")]
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(words)}, ensure_ascii=False, indent=0), encoding="utf-8")
    # As the published packs list them.
    languages = [f"__{code}__" for code in FAIRSEQ_LANGUAGE_CODES["m2m100"]]
    tokenizer = M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"), src_lang="en", tgt_lang="de", additional_special_tokens=languages)
    tokenizer.save_pretrained(folder)
    model = m2m_model(len(words) + len(tokenizer.lang_code_to_token) + tokenizer.num_madeup_words, 41)
    export(model, folder, SPLIT)
    found = {"tokens": [], "answers": []}
    for source, target in [("en", "de"), ("fr", "ja")]:
        tokenizer.src_lang = source
        pair = {"from": source, "to": target}
        found["tokens"] += [{"text": text, "ids": tokenizer(text)["input_ids"], **pair} for text in TEXTS]
        made = answers(model, tokenizer, TEXTS[:5], OPTIONS[:3], forced_bos_token_id=tokenizer.get_lang_id(target))
        found["answers"] += [{**answer, **pair} for answer in made]
    return found


def m2m_model(vocabulary, seed):
    config = M2M100Config(
        **SIZES, vocab_size=vocabulary, pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2, scale_embedding=True, max_position_embeddings=128
    )
    model = M2M100ForConditionalGeneration(config).eval()
    randomise(model, seed, scale=1.7)
    raise_logits(model.model.shared.weight, model.model.decoder.layer_norm.bias, [([2], END), ([0, 1, 3], -9.0)])
    model.generation_config = GenerationConfig(
        num_beams=5, max_length=48, early_stopping=True, decoder_start_token_id=2, pad_token_id=1, eos_token_id=2, bos_token_id=0
    )
    return model


def nllb(folder):
    folder.mkdir(parents=True)
    bpe = SentencePieceBPETokenizer(unk_token="<unk>", add_prefix_space=True)
    bpe.train_from_iterator(sentences(), vocab_size=420, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], show_progress=False)
    with tempfile.TemporaryDirectory() as saved:
        bpe.save(f"{saved}/tokenizer.json")
        tokenizer = NllbTokenizerFast(tokenizer_file=f"{saved}/tokenizer.json", src_lang="eng_Latn", tgt_lang="deu_Latn")
    tokenizer.save_pretrained(folder)
    model = m2m_model(len(tokenizer), 42)
    export(model, folder, MERGED)
    found = {"tokens": [], "answers": []}
    for source, target in [("eng_Latn", "deu_Latn"), ("fra_Latn", "jpn_Jpan")]:
        tokenizer.src_lang = source
        pair = {"from": source, "to": target}
        found["tokens"] += [{"text": text, "ids": tokenizer(text)["input_ids"], **pair} for text in TEXTS]
        made = answers(model, tokenizer, TEXTS[:5], OPTIONS[:3], forced_bos_token_id=tokenizer.convert_tokens_to_ids(target))
        found["answers"] += [{**answer, **pair} for answer in made]
    return found


def make(folder):
    shutil.rmtree(folder, ignore_errors=True)
    expected = {"marian": marian(folder / "marian"), "m2m100": m2m100(folder / "m2m100"), "nllb": nllb(folder / "nllb")}
    (folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=1), encoding="utf-8")
    for name, part in expected.items():
        rows = [row for answer in part["answers"] for row in answer["ids"]]
        print(f"{name}: {len(rows)} sequences, {len({tuple(row) for row in rows})} of them different, {len({token for row in rows for token in row})} tokens, lengths {sorted({len(row) for row in rows})}")
