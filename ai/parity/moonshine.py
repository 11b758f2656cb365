"""A small Moonshine of random weights in Optimum's layout, and what `transformers` hears with it.

    python -m parity moonshine
"""
import json
import pathlib
import shutil

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import MoonshineConfig, MoonshineForConditionalGeneration

from .export import exported
from .sentences import sentences
from .sound import sound
from .weights import randomise

D = 32


def tokenizer(folder):
    """Byte-pair encoding with a byte fallback, as Llama's: `<unk>`, `<s>`, `</s>`, bytes, pieces."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    bpe.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=specials, show_progress=False)
    bpe.train_from_iterator(sentences(), trainer)
    written = json.loads(bpe.to_str())
    # Bytes are pieces, not special tokens.
    written["added_tokens"] = [token for token in written["added_tokens"] if not token["content"].startswith("<0x")]
    (folder / "tokenizer.json").write_text(json.dumps(written, ensure_ascii=False, separators=(",", ":")))
    return Tokenizer.from_str(json.dumps(written))


def network(size, seed):
    config = MoonshineConfig(
        vocab_size=size,
        hidden_size=D,
        intermediate_size=2 * D,
        encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=2,
        encoder_num_attention_heads=4,
        decoder_num_attention_heads=4,
        max_position_embeddings=194,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        decoder_start_token_id=1,
    )
    model = MoonshineForConditionalGeneration(config).eval()
    randomise(model, seed)
    inner = model.model
    with torch.no_grad():
        embedding = inner.decoder.embed_tokens.weight
        embedding.div_(embedding.norm(dim=1, keepdim=True)).mul_(0.5)
        for layer in inner.decoder.layers:
            # There are no positions but in the turning of queries and keys: attention has to be sharp.
            layer.self_attn.q_proj.weight.mul_(8.0)
            layer.self_attn.v_proj.weight.mul_(4.0)
            layer.encoder_attn.q_proj.weight.mul_(8.0)
            layer.encoder_attn.v_proj.weight.mul_(3.0)
            layer.mlp.fc1.weight.mul_(2.0)
    return model


def make(folder: pathlib.Path):
    """Writes everything into `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    bpe = tokenizer(folder)
    model = network(bpe.get_vocab_size(), SEED)
    generation = model.generation_config
    settings = dict(bos_token_id=1, eos_token_id=2, pad_token_id=2, decoder_start_token_id=1, max_length=194)
    for name, value in settings.items():
        setattr(generation, name, value)
    generation._from_model_config = False
    model.config.to_json_file(folder / "config.json")
    generation.to_json_file(folder / "generation_config.json")
    graphs = ["encoder_model", "decoder_model", "decoder_with_past_model", "decoder_model_merged"]
    exported(model, folder, "automatic-speech-recognition-with-past", graphs=graphs)
    sounds = [
        [["speech", 0.5]],
        [["speech", 2.0]],
        [["voice", 1.0]],
        [["voice", 6.3]],
        [["noise", 3.0]],
        [["sweep", 4.0], ["silence", 1.0], ["voice", 2.0]],
        [["noise", 0.1]],
        [["tone", 1.5]],
        [["silence", 2.0]],
        [["sweep", 9.7]],
    ]
    cases = []
    for parts in sounds:
        samples = torch.from_numpy(sound(parts))[None]
        # Six and a half tokens a second of sound, as its makers advise against repetition.
        limit = max(1, int(samples.shape[1] * 6.5 / 16_000))
        for length in (None, limit):
            options = {} if length is None else {"max_new_tokens": length}
            with torch.no_grad():
                tokens = model.generate(samples, **options)[0].tolist()[1:]
            cases.append({"sound": parts, "options": options, "tokens": tokens, "text": bpe.decode(tokens, skip_special_tokens=True)})
    text = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (folder / "expected.json").write_text(f"[\n{text}\n]\n")
    spoken = [case["tokens"] for case in cases]
    counts = [len(set(sequence)) for sequence in spoken]
    print(f"{len(spoken)} sequences, {sum(map(len, spoken))} tokens, {len(set(sum(spoken, [])))} distinct, {counts}")


SEED = 12
