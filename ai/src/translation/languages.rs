//! Languages by their two codes: ISO 639-1, which BCP 47 tags begin with, and ISO 639-3, which NLLB and many opus-mt packs use.

/// Pairs of two and three letters. Where NLLB writes a language in several scripts or varieties, the entry is its usual one.
const CODES: [(&str, &str); 92] = [
    ("af", "afr"),
    ("am", "amh"),
    ("ar", "arb"),
    ("as", "asm"),
    ("az", "azj"),
    ("be", "bel"),
    ("bg", "bul"),
    ("bn", "ben"),
    ("bs", "bos"),
    ("ca", "cat"),
    ("cs", "ces"),
    ("cy", "cym"),
    ("da", "dan"),
    ("de", "deu"),
    ("el", "ell"),
    ("en", "eng"),
    ("eo", "epo"),
    ("es", "spa"),
    ("et", "est"),
    ("eu", "eus"),
    ("fa", "pes"),
    ("fi", "fin"),
    ("fo", "fao"),
    ("fr", "fra"),
    ("ga", "gle"),
    ("gd", "gla"),
    ("gl", "glg"),
    ("gu", "guj"),
    ("ha", "hau"),
    ("he", "heb"),
    ("hi", "hin"),
    ("hr", "hrv"),
    ("ht", "hat"),
    ("hu", "hun"),
    ("hy", "hye"),
    ("id", "ind"),
    ("ig", "ibo"),
    ("is", "isl"),
    ("it", "ita"),
    ("ja", "jpn"),
    ("jv", "jav"),
    ("ka", "kat"),
    ("kk", "kaz"),
    ("km", "khm"),
    ("kn", "kan"),
    ("ko", "kor"),
    ("ky", "kir"),
    ("lb", "ltz"),
    ("lo", "lao"),
    ("lt", "lit"),
    ("lv", "lvs"),
    ("mg", "plt"),
    ("mi", "mri"),
    ("mk", "mkd"),
    ("ml", "mal"),
    ("mn", "khk"),
    ("mr", "mar"),
    ("ms", "zsm"),
    ("mt", "mlt"),
    ("my", "mya"),
    ("ne", "npi"),
    ("nl", "nld"),
    ("nn", "nno"),
    ("no", "nob"),
    ("oc", "oci"),
    ("or", "ory"),
    ("pa", "pan"),
    ("pl", "pol"),
    ("ps", "pbt"),
    ("pt", "por"),
    ("ro", "ron"),
    ("ru", "rus"),
    ("sd", "snd"),
    ("si", "sin"),
    ("sk", "slk"),
    ("sl", "slv"),
    ("so", "som"),
    ("sq", "als"),
    ("sr", "srp"),
    ("sv", "swe"),
    ("sw", "swh"),
    ("ta", "tam"),
    ("te", "tel"),
    ("th", "tha"),
    ("tr", "tur"),
    ("uk", "ukr"),
    ("ur", "urd"),
    ("uz", "uzn"),
    ("vi", "vie"),
    ("yo", "yor"),
    ("zh", "zho"),
    ("zu", "zul"),
];

/// The languages of M2M100, in the order of their tokens, which follow its vocabulary.
pub(super) const M2M100: [&str; 100] = [
    "af", "am", "ar", "ast", "az", "ba", "be", "bg", "bn", "br", "bs", "ca", "ceb", "cs", "cy", "da", "de", "el", "en", "es", "et", "fa",
    "ff", "fi", "fr", "fy", "ga", "gd", "gl", "gu", "ha", "he", "hi", "hr", "ht", "hu", "hy", "id", "ig", "ilo", "is", "it", "ja", "jv",
    "ka", "kk", "km", "kn", "ko", "lb", "lg", "ln", "lo", "lt", "lv", "mg", "mk", "ml", "mn", "mr", "ms", "my", "ne", "nl", "no", "ns",
    "oc", "or", "pa", "pl", "ps", "pt", "ro", "ru", "sd", "si", "sk", "sl", "so", "sq", "sr", "ss", "su", "sv", "sw", "ta", "th", "tl",
    "tn", "tr", "uk", "ur", "uz", "vi", "wo", "xh", "yi", "yo", "zh", "zu",
];

/// The three letters of a two-letter code; another code is given back as it is.
pub(super) fn three_letters(code: &str) -> &str {
    CODES.iter().find(|(two, _)| *two == code).map_or(code, |(_, three)| three)
}

/// The two letters of a three-letter code, where it has them; another code is given back as it is. Norwegian and Arabic go by several.
pub(super) fn two_letters(code: &str) -> &str {
    let usual = match code {
        "nor" => "nob",
        "ara" => "arb",
        "fas" => "pes",
        "lav" => "lvs",
        "msa" => "zsm",
        other => other,
    };
    CODES.iter().find(|(_, three)| *three == usual).map_or(code, |(two, _)| two)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_unique_and_lead_back() {
        assert_eq!(CODES.iter().map(|(two, _)| two).collect::<HashSet<_>>().len(), CODES.len());
        assert_eq!(CODES.iter().map(|(_, three)| three).collect::<HashSet<_>>().len(), CODES.len());
        assert!(CODES.iter().all(|(two, three)| two_letters(three) == *two && three_letters(two) == *three));
        assert_eq!((three_letters("ceb"), two_letters("ceb"), two_letters("ara")), ("ceb", "ceb", "ar"));
    }
}
