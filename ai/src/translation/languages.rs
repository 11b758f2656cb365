//! Names of languages: what M2M100 has, in the order of its tokens, and how BCP 47 tags are called by other packs.

/// M2M100's languages, in the order of their tokens.
pub const M2M100: [&str; 100] = [
    "af", "am", "ar", "ast", "az", "ba", "be", "bg", "bn", "br", "bs", "ca", "ceb", "cs", "cy", "da", "de", "el", "en", "es", "et", "fa",
    "ff", "fi", "fr", "fy", "ga", "gd", "gl", "gu", "ha", "he", "hi", "hr", "ht", "hu", "hy", "id", "ig", "ilo", "is", "it", "ja", "jv",
    "ka", "kk", "km", "kn", "ko", "lb", "lg", "ln", "lo", "lt", "lv", "mg", "mk", "ml", "mn", "mr", "ms", "my", "ne", "nl", "no", "ns",
    "oc", "or", "pa", "pl", "ps", "pt", "ro", "ru", "sd", "si", "sk", "sl", "so", "sq", "sr", "ss", "su", "sv", "sw", "ta", "th", "tl",
    "tn", "tr", "uk", "ur", "uz", "vi", "wo", "xh", "yi", "yo", "zh", "zu",
];

/// Two letters of BCP 47, three letters (opus-mt's multilingual packs), and NLLB's name (FLORES-200).
const NAMES: [(&str, &str, &str); 91] = [
    ("af", "afr", "afr_Latn"),
    ("am", "amh", "amh_Ethi"),
    ("ar", "ara", "arb_Arab"),
    ("az", "aze", "azj_Latn"),
    ("be", "bel", "bel_Cyrl"),
    ("bg", "bul", "bul_Cyrl"),
    ("bn", "ben", "ben_Beng"),
    ("bs", "bos", "bos_Latn"),
    ("ca", "cat", "cat_Latn"),
    ("cs", "ces", "ces_Latn"),
    ("cy", "cym", "cym_Latn"),
    ("da", "dan", "dan_Latn"),
    ("de", "deu", "deu_Latn"),
    ("el", "ell", "ell_Grek"),
    ("en", "eng", "eng_Latn"),
    ("eo", "epo", "epo_Latn"),
    ("es", "spa", "spa_Latn"),
    ("et", "est", "est_Latn"),
    ("eu", "eus", "eus_Latn"),
    ("fa", "fas", "pes_Arab"),
    ("fi", "fin", "fin_Latn"),
    ("fr", "fra", "fra_Latn"),
    ("ga", "gle", "gle_Latn"),
    ("gl", "glg", "glg_Latn"),
    ("gu", "guj", "guj_Gujr"),
    ("ha", "hau", "hau_Latn"),
    ("he", "heb", "heb_Hebr"),
    ("hi", "hin", "hin_Deva"),
    ("hr", "hrv", "hrv_Latn"),
    ("ht", "hat", "hat_Latn"),
    ("hu", "hun", "hun_Latn"),
    ("hy", "hye", "hye_Armn"),
    ("id", "ind", "ind_Latn"),
    ("ig", "ibo", "ibo_Latn"),
    ("is", "isl", "isl_Latn"),
    ("it", "ita", "ita_Latn"),
    ("ja", "jpn", "jpn_Jpan"),
    ("jv", "jav", "jav_Latn"),
    ("ka", "kat", "kat_Geor"),
    ("kk", "kaz", "kaz_Cyrl"),
    ("km", "khm", "khm_Khmr"),
    ("kn", "kan", "kan_Knda"),
    ("ko", "kor", "kor_Hang"),
    ("ky", "kir", "kir_Cyrl"),
    ("lb", "ltz", "ltz_Latn"),
    ("lo", "lao", "lao_Laoo"),
    ("lt", "lit", "lit_Latn"),
    ("lv", "lav", "lvs_Latn"),
    ("mg", "mlg", "plt_Latn"),
    ("mk", "mkd", "mkd_Cyrl"),
    ("ml", "mal", "mal_Mlym"),
    ("mn", "mon", "khk_Cyrl"),
    ("mr", "mar", "mar_Deva"),
    ("ms", "msa", "zsm_Latn"),
    ("mt", "mlt", "mlt_Latn"),
    ("my", "mya", "mya_Mymr"),
    ("nb", "nob", "nob_Latn"),
    ("ne", "nep", "npi_Deva"),
    ("nl", "nld", "nld_Latn"),
    ("nn", "nno", "nno_Latn"),
    ("no", "nor", "nob_Latn"),
    ("pa", "pan", "pan_Guru"),
    ("pl", "pol", "pol_Latn"),
    ("ps", "pus", "pbt_Arab"),
    ("pt", "por", "por_Latn"),
    ("ro", "ron", "ron_Latn"),
    ("ru", "rus", "rus_Cyrl"),
    ("sd", "snd", "snd_Arab"),
    ("si", "sin", "sin_Sinh"),
    ("sk", "slk", "slk_Latn"),
    ("sl", "slv", "slv_Latn"),
    ("so", "som", "som_Latn"),
    ("sq", "sqi", "als_Latn"),
    ("sr", "srp", "srp_Cyrl"),
    ("su", "sun", "sun_Latn"),
    ("sv", "swe", "swe_Latn"),
    ("sw", "swa", "swh_Latn"),
    ("ta", "tam", "tam_Taml"),
    ("te", "tel", "tel_Telu"),
    ("th", "tha", "tha_Thai"),
    ("tl", "tgl", "tgl_Latn"),
    ("tr", "tur", "tur_Latn"),
    ("uk", "ukr", "ukr_Cyrl"),
    ("ur", "urd", "urd_Arab"),
    ("uz", "uzb", "uzn_Latn"),
    ("vi", "vie", "vie_Latn"),
    ("xh", "xho", "xho_Latn"),
    ("yi", "yid", "ydd_Hebr"),
    ("yo", "yor", "yor_Latn"),
    ("zh", "zho", "zho_Hans"),
    ("zu", "zul", "zul_Latn"),
];

/// What packs call a language, by a BCP 47 tag or one of its names; the script, where one is given, comes first.
pub(super) fn names(tag: &str) -> Vec<String> {
    let lower = tag.to_ascii_lowercase();
    let mut parts = lower.split(['-', '_']);
    let primary = parts.next().unwrap_or_default();
    let script = parts.find(|part| part.len() == 4).map(|part| {
        let (first, rest) = part.split_at(1);
        first.to_ascii_uppercase() + rest
    });
    let row = NAMES.iter().find(|(two, three, nllb)| primary == *two || primary == *three || nllb.starts_with(&format!("{primary}_")));
    let mut names = Vec::new();
    if let Some((two, three, nllb)) = row {
        if let Some(script) = script {
            names.push(format!("{}_{script}", nllb.split('_').next().unwrap_or_default()));
            names.push(format!("{three}_{script}"));
        }
        names.extend([*two, *three, *nllb].map(str::to_owned));
    }
    names.push(primary.to_owned());
    names
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn tags_have_the_names_of_packs() {
        assert!(names("de-AT").contains(&"deu_Latn".to_owned()));
        assert_eq!(names("zh-Hant")[0], "zho_Hant");
        assert!(names("eng_Latn").contains(&"en".to_owned()));
        assert_eq!(names("xx"), ["xx"]);
    }
}
