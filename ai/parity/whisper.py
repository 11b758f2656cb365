"""A small Whisper of random weights in Optimum's layout, and what `transformers` hears with it.

    python -m parity whisper

Writes the pack (merged and split decoders, one that also gives cross attentions, int8 and fp16), features, and
`expected.json`: a list of cases, each with its sound, its options and everything that `generate` answers.
"""
import copy
import itertools
import json
import pathlib
import shutil
import tempfile

import numpy as np
import onnxruntime
import torch
from optimum.exporters.onnx.base import ConfigBehavior
from optimum.exporters.onnx.model_configs import WhisperOnnxConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizerFast
from transformers.generation.logits_process import (
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    WhisperNoSpeechDetection,
    WhisperTimeStampLogitsProcessor,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from .export import exported, fp16, int8
from .sentences import sentences
from .sound import sound
from .weights import raise_logits, randomise

D, HEADS, LAYERS = 24, 4, 2
WORDS = 600  # tokens of text


def tokenizer(folder):
    """Byte-level BPE of our sentences with Whisper's special tokens after it, in Whisper's order."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=WORDS, initial_alphabet=alphabet, show_progress=False)
    # Whisper's text begins with a space.
    bpe.train_from_iterator([" " + line for line in sentences()], trainer)
    assert bpe.get_vocab_size() == WORDS
    specials = ["<|endoftext|>", "<|startoftranscript|>"]
    specials += [f"<|{code}|>" for code in LANGUAGES]
    specials += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    bpe.add_special_tokens(specials)
    bpe.add_tokens([f"<|{index * 0.02:.2f}|>" for index in range(1501)])
    bpe.post_processor = processors.ByteLevel(trim_offsets=False)
    fast = WhisperTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=specials,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)
    (pathlib.Path(folder) / "vocab.json").unlink(missing_ok=True)
    return fast


def model(fast, seed):
    token = fast.convert_tokens_to_ids
    eos, first_time = token("<|endoftext|>"), token("<|0.00|>")
    config = WhisperConfig(
        vocab_size=len(fast),
        num_mel_bins=80,
        d_model=D,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=2 * D,
        decoder_ffn_dim=2 * D,
        pad_token_id=eos,
        bos_token_id=eos,
        eos_token_id=eos,
        decoder_start_token_id=token("<|startoftranscript|>"),
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    torch.manual_seed(seed)
    whisper = WhisperForConditionalGeneration(config).eval()
    randomise(whisper, seed)
    decoder = whisper.model.decoder
    embedding, positions = decoder.embed_tokens.weight, decoder.embed_positions.weight
    times = torch.arange(1501)
    with torch.no_grad():
        # Sinusoids, so that neighbours in time look alike to the encoder, and random positions in the decoder.
        from transformers.models.whisper.modeling_whisper import sinusoids

        whisper.model.encoder.embed_positions.weight.copy_(0.5 * sinusoids(1500, D))
        whisper.model.encoder.conv1.weight.mul_(2.0)
        for layer in decoder.layers:
            layer.encoder_attn.v_proj.weight.mul_(1.5)
            layer.encoder_attn.out_proj.weight.mul_(1.0)
            layer.encoder_attn.q_proj.weight.mul_(8.0)
            layer.self_attn.q_proj.weight.mul_(4.0)
        # Rows of one length: none is favoured.
        embedding.div_(embedding.norm(dim=1, keepdim=True)).mul_(2.0)
        positions.mul_(9.0)
        # Position t speaks of times near 1500 t / 120: a wave of each of two lengths, in axes 1 to 4.
        spoken = torch.arange(448) * 12.5
        for axis, length in [(1, 3000.0), (3, 700.0)]:
            positions[:, axis] = 2.0 * torch.cos(2 * np.pi * spoken / length)
            positions[:, axis + 1] = 2.0 * torch.sin(2 * np.pi * spoken / length)
            embedding[first_time:, axis] = 0.8 * torch.cos(2 * np.pi * times / length)
            embedding[first_time:, axis + 1] = 0.8 * torch.sin(2 * np.pi * times / length)
            embedding[:first_time, axis : axis + 2] = 0.0
        embedding[first_time:, 5:] *= 0.25
        # The end grows likelier with each step.
        positions[:, 5] = torch.arange(448) / 5.0
        embedding[:, 5] = 0.0
        embedding[eos, 5] = 2.0
    languages = [token(f"<|{code}|>") for code in LANGUAGES]
    raise_logits(embedding, decoder.layer_norm.bias, [(times + first_time, -3.0), ([eos], -2.0), (languages, -1.0)])
    generation = whisper.generation_config
    settings = dict(
        max_length=448,
        pad_token_id=eos,
        bos_token_id=eos,
        eos_token_id=eos,
        decoder_start_token_id=token("<|startoftranscript|>"),
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": token(f"<|{code}|>") for code in LANGUAGES},
        task_to_id={name: token(f"<|{name}|>") for name in ("transcribe", "translate")},
        no_timestamps_token_id=token("<|notimestamps|>"),
        prev_sot_token_id=token("<|startofprev|>"),
        max_initial_timestamp_index=50,
        alignment_heads=[[0, 1], [1, 0], [1, 3]],
        return_timestamps=False,
        # As the old ones have it: the language is found, the task is to transcribe.
        forced_decoder_ids=[[1, None], [2, token("<|transcribe|>")]],
        # Some text, and all special tokens but the end and the times, as the real list has.
        suppress_tokens=[1, 2, 7, 8, 9, 58, 90] + list(range(eos + 1, token("<|notimestamps|>"))),
        begin_suppress_tokens=[220, eos],
    )
    for name, value in settings.items():
        setattr(generation, name, value)
    generation._from_model_config = False
    return whisper


class Attending(WhisperOnnxConfig):
    """The export that Optimum's guide describes for word times: cross attentions beside the logits."""

    @property
    def outputs(self):
        outputs = super().outputs
        if self._behavior is ConfigBehavior.DECODER:
            for layer in range(LAYERS):
                outputs[f"cross_attentions.{layer}"] = {0: "batch_size", 2: "decoder_sequence_length", 3: "encoder_sequence_length"}
        return outputs


def export(whisper, folder):
    """`folder`: all graphs without attentions; `folder/attentions`: a merged decoder with them."""
    task = "automatic-speech-recognition-with-past"
    exported(whisper, folder, task)
    for name in ("encoder_model", "decoder_model_merged"):
        int8(folder / f"{name}.onnx")
        fp16(folder / f"{name}.onnx")
    config = Attending(whisper.config, task="automatic-speech-recognition")
    decoder = dict(use_past=True)
    configs = {
        "encoder_model": config.with_behavior("encoder"),
        "decoder_model": config.with_behavior("decoder", use_past_in_inputs=False, **decoder),
        "decoder_with_past_model": config.with_behavior("decoder", use_past_in_inputs=True, **decoder),
    }
    (folder / "attentions").mkdir(exist_ok=True)
    options = dict(custom_onnx_configs=configs, model_kwargs={"output_attentions": True})
    exported(whisper, folder / "attentions", task, graphs=["decoder_model_merged"], **options)


class Listener:
    """`generate` with a record of what it decides in each window."""

    def __init__(self, whisper, fast, extractor):
        self.whisper, self.fast, self.extractor = whisper, fast, extractor
        self.windows = []
        judge = whisper._need_fallback

        def recorded(sequence, outputs, index, processors, config, vocabulary, temperature):
            verdict = judge(sequence, outputs, index, processors, config, vocabulary, temperature)
            probability = next(p.no_speech_prob for p in processors if isinstance(p, WhisperNoSpeechDetection))
            average = whisper._retrieve_avg_logprobs(outputs[index]["scores"], sequence, temperature)
            self.windows.append(
                {
                    "avg_logprob": float(average),
                    "no_speech_prob": float(probability[index]),
                    "compression_ratio": whisper._retrieve_compression_ratio(sequence, vocabulary),
                    "fallback": bool(verdict[0]),
                    "skip": bool(verdict[1]),
                }
            )
            return verdict

        whisper._need_fallback = recorded

    def hear(self, name, parts, pack="", words=False, **options):
        samples = sound(parts)
        long = len(samples) > 480_000
        padding = dict(truncation=False, padding="longest") if long else {}
        inputs = self.extractor(samples, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True, **padding)
        arguments = dict(options)
        prompt = arguments.pop("prompt", None)
        if prompt:
            arguments["prompt_ids"] = self.fast.get_prompt_ids(prompt, return_tensors="pt")
        if words:
            arguments["attention_mask"] = inputs.attention_mask
        beams = arguments.pop("beams", 1)
        if long:
            arguments["return_timestamps"] = True
        arguments.setdefault("temperature", (0.0,))
        # Thresholds that no window passes make `generate` compute what is compared; cases name others.
        arguments.setdefault("logprob_threshold", -1e9)
        arguments.setdefault("no_speech_threshold", 2.0)
        self.windows.clear()
        config = copy.deepcopy(self.whisper.generation_config)
        with torch.no_grad():
            heard = self.whisper.generate(
                inputs.input_features,
                generation_config=config,
                num_beams=beams,
                return_segments=True,
                return_token_timestamps=words,
                **arguments,
            )

        case = {"name": name, "sound": parts, "pack": pack, "options": {**options, "words": words}}
        if isinstance(heard, dict) and "segments" in heard:
            segments = heard["segments"][0]
        else:
            raise AssertionError("segments were asked for")
        case["tokens"] = torch.cat([s["tokens"] for s in segments]).tolist() if segments else []
        case["segments"] = [
            {
                "start": float(s["start"]),
                "end": float(s["end"]),
                "tokens": s["tokens"].tolist(),
                "text": self.fast.decode(s["tokens"].tolist(), skip_special_tokens=True),
                **({"times": [round(float(t), 4) for t in s["token_timestamps"]]} if words else {}),
            }
            for s in segments
        ]
        case["windows"] = copy.deepcopy(self.windows)
        if words and not long:
            case["words"] = self.words(segments, options)
        return case

    def words(self, segments, options):
        """Words as the pipeline of `transformers` makes them from one window's tokens and their times."""
        tokens = torch.cat([s["tokens"] for s in segments])
        times = torch.cat([s["token_timestamps"] for s in segments])
        language = self.fast.convert_tokens_to_ids(f"<|{options['language']}|>")
        output = {"tokens": torch.cat([torch.tensor([language]), tokens])[None], "token_timestamps": torch.cat([torch.zeros(1), times])[None]}
        try:
            _, found = self.fast._decode_asr([output], return_timestamps="word", return_language=False, time_precision=0.02)
        except IndexError:
            # The text ends within a character, which the reference does not expect.
            return None
        return [{"text": w["text"], "start": w["timestamp"][0], "end": w["timestamp"][1]} for w in found["chunks"]]


def cases(listener):
    speech, voice, noise, mixed = [["speech", 3.0]], [["voice", 8.0]], [["noise", 5.0]], [["voice", 12.0], ["noise", 10.0], ["sweep", 8.0]]
    short = {"speech": speech, "voice": voice, "noise": noise, "mixed": mixed, "silence": [["silence", 2.0]], "blip": [["tone", 0.05]]}
    hear = listener.hear
    for name, parts in short.items():
        yield hear(f"{name}, greedy", parts, language="en")
        yield hear(f"{name}, greedy, times", parts, language="en", return_timestamps=True)
        yield hear(f"{name}, beam", parts, language="de", beams=5)
        yield hear(f"{name}, beam, times", parts, language="fr", beams=5, return_timestamps=True)
        yield hear(f"{name}, its language found", parts)
        yield hear(f"{name}, translated", parts, task="translate", return_timestamps=True)
    yield hear("a prompt", voice, language="en", prompt="The captain opens an old radio.")
    yield hear("a prompt, beam, times", speech, language="ja", prompt="船長は 9, ok?", beams=3, return_timestamps=True)
    # About a window long: what is said of the silence after a sound is not compared.
    full = {"mixed": mixed, "sweep": [["sweep", 11.0], ["speech", 19.0]], "voice": [["noise", 9.0], ["voice", 20.5]]}
    for name, parts in full.items():
        yield hear(f"{name}, words", parts, pack="attentions", words=True, language="en", return_timestamps=True)
        yield hear(f"{name}, words, no times", parts, pack="attentions", words=True, language="en")
        yield hear(f"{name}, words, beam", parts, pack="attentions", words=True, language="ja", beams=3, return_timestamps=True)
    long = [["voice", 21.0], ["noise", 14.0], ["sweep", 9.0], ["silence", 6.0], ["speech", 17.3]]
    yield hear("long", long, language="en")
    yield hear("long, beam", long, language="en", beams=3)
    yield hear("long, with what was said before", long, language="de", condition_on_prev_tokens=True)
    yield hear("long, with a prompt", long, language="en", prompt="two cups of tea")
    yield hear(
        "long, with a prompt for all",
        long,
        language="en",
        prompt="two cups of tea",
        prompt_condition_type="all-segments",
        condition_on_prev_tokens=True,
    )
    yield hear("long, its language found", long)
    yield hear("long, words", long, pack="attentions", words=True, language="en")
    yield hear("skipped as silence", long, language="en", logprob_threshold=0.0, no_speech_threshold=SILENCE)


class Rounded:
    """A loop over graphs of 8 or 16 bits, with the cache: without it (as Optimum's classes run them here) whole texts are rounded together."""

    def __init__(self, folder, pack, settings):
        self.settings = settings
        self.element = np.float16 if pack == "fp16" else np.float32
        names = (f"encoder_model_{pack}.onnx", f"decoder_model_merged_{pack}.onnx")
        self.encoder, self.decoder = [onnxruntime.InferenceSession(str(folder / name)) for name in names]

    def generate(self, features, timestamps):
        settings = self.settings
        prompt = [settings.decoder_start_token_id, settings.lang_to_id["<|en|>"], settings.task_to_id["transcribe"]]
        prompt += [] if timestamps else [settings.no_timestamps_token_id]
        rules = [
            SuppressTokensAtBeginLogitsProcessor(settings.begin_suppress_tokens, begin_index=len(prompt)),
            SuppressTokensLogitsProcessor(settings.suppress_tokens),
        ]
        rules += [WhisperTimeStampLogitsProcessor(settings, begin_index=len(prompt))] if timestamps else []
        hidden = self.encoder.run(["last_hidden_state"], {"input_features": features.numpy().astype(self.element)})[0]
        pasts = [i.name for i in self.decoder.get_inputs() if i.name.startswith("past")]
        outputs = [o.name for o in self.decoder.get_outputs()]
        feed = {name: np.zeros((1, HEADS, 0, D // HEADS), self.element) for name in pasts}
        feed.update(input_ids=np.array([prompt]), encoder_hidden_states=hidden, use_cache_branch=np.array([False]))
        tokens = list(prompt)
        while len(tokens) < settings.max_length:
            made = dict(zip(outputs, self.decoder.run(outputs, feed)))
            scores = torch.from_numpy(made["logits"][:, -1].astype(np.float32))
            for rule in rules:
                scores = rule(torch.tensor([tokens]), scores)
            token = int(scores.argmax())
            if token == settings.eos_token_id:
                break
            first = len(tokens) == len(prompt)
            for name in pasts:
                if first or ".decoder." in name:
                    feed[name] = made[name.replace("past_key_values", "present")]
            tokens.append(token)
            feed.update(input_ids=np.array([[token]]), use_cache_branch=np.array([True]))
        return tokens[len(prompt) :]


def onnx_cases(folder, fast, extractor):
    """What the very same ONNX files say: rounding differs too much from the model in 32 bits."""
    settings = GenerationConfig.from_pretrained(folder)
    sounds = {name: [[name, seconds]] for name, seconds in [("speech", 3.0), ("noise", 5.0), ("voice", 8.0), ("sweep", 12.0)]}
    sounds |= {f"{name} again": [[name, seconds]] for name, seconds in [("speech", 6.5), ("noise", 1.0), ("voice", 2.5), ("tone", 4.0)]}
    timed = {"return_timestamps": True}
    for pack, noises in (("int8", (1e-6, 2e-6, 4e-6)), ("fp16", (2e-6, 1e-5, 3e-5, 4e-5))):
        rounded = Rounded(folder, pack, copy.deepcopy(settings))
        kept = compared = 0
        for name, parts in sounds.items():
            features = extractor(sound(parts), sampling_rate=16_000, return_tensors="pt").input_features
            for options in ({}, timed):

                def said(noise):
                    generator = torch.Generator().manual_seed(round(noise * 1e7))
                    heard = features + noise * torch.randn(features.shape, generator=generator)
                    return rounded.generate(heard, timestamps=bool(options))

                # Rounding to 8 or 16 bits makes much of little: what the last bits of the features decide is not compared.
                whole = said(0.0)
                tokens = whole
                for noise in noises:
                    tokens = [a for a, b in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(tokens, said(noise)))]
                if len(tokens) < 10:
                    continue
                kept += 1
                compared += len(tokens)
                label = "".join(f", {key}" for key in options)
                beginning = {} if tokens == whole else {"beginning": True}
                case = {"name": f"{name}, {pack}{label}", "sound": parts, "pack": pack, "tokens": tokens}
                yield {**case, "options": {"language": "en", **options, **beginning}}
        print(f"{pack}: {kept} of {2 * len(sounds)} cases, {compared} tokens that do not hang on the last bits")
        assert kept >= 6


# Between what the windows of the long recording have.
SILENCE = 0.0001


def features(folder):
    """Every so many frames of what WhisperFeatureExtractor gives, frame after frame."""
    sounds = [
        [["speech", 3.0]],
        [["silence", 1.0]],
        [["noise", 5.0]],
        [["tone", 0.01]],
        [["voice", 12.0], ["noise", 10.0], ["sweep", 8.0]],
        [["sweep", 33.3]],
    ]
    listed, values = [], []
    for mels in (80, 128):
        extractor = WhisperFeatureExtractor(feature_size=mels)
        for parts in sounds:
            samples = sound(parts)
            for whole in (False, True):
                padding = dict(truncation=False, padding="longest") if whole else {}
                if whole and len(samples) < 400:
                    continue
                spectrum = extractor(samples, sampling_rate=16_000, return_tensors="np", **padding).input_features[0]
                end = min(spectrum.shape[1], len(samples) // 160)
                frames = sorted({f for f in [0, 1, 2, end - 2, end - 1, end, end + 1, end + 2, spectrum.shape[1] - 1, *range(0, spectrum.shape[1], 120)] if 0 <= f < spectrum.shape[1]})
                listed.append({"sound": parts, "mels": mels, "whole": whole, "length": spectrum.shape[1], "frames": frames})
                values.append(spectrum[:, frames].T.astype("<f4").reshape(-1))
    (folder / "features.json").write_text(json.dumps(listed))
    (folder / "features.f32").write_bytes(np.concatenate(values).tobytes())


def make(folder: pathlib.Path):
    """Writes everything into `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as made:
        fast = tokenizer(made)
        written = json.loads((pathlib.Path(made) / "tokenizer.json").read_text())
        (folder / "tokenizer.json").write_text(json.dumps(written, ensure_ascii=False, separators=(",", ":")))
        whisper = model(fast, seed=3)
        whisper.config.to_json_file(folder / "config.json")
        whisper.generation_config.to_json_file(folder / "generation_config.json")
        extractor = WhisperFeatureExtractor()
        extractor.save_pretrained(folder)
        export(whisper, folder)
        features(folder)
        made_cases = list(onnx_cases(folder, fast, extractor)) + list(cases(Listener(whisper, fast, extractor)))
    text = ",\n".join(json.dumps(case, ensure_ascii=False) for case in made_cases)
    (folder / "expected.json").write_text(f"[\n{text}\n]\n")
    spoken = [case["tokens"] for case in made_cases]
    print(f"{len(spoken)} sequences, {sum(map(len, spoken))} tokens, {len(set(sum(spoken, [])))} distinct")
