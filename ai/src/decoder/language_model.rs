//! The word trigram of a pack (`AURALM01`): interpolated Kneser-Ney, stored with back-off.
//!
//! Place: in the beam search, where a word ends. Layout, little-endian and packed: magic (8 bytes); u32 W, B, T; i16\[W\]
//! unigram log-probability; i16\[W\] unigram back-off; u32\[W+1\] first bigram of each word; u16\[B\] second word (ascending);
//! i16\[B\] log-probability; i16\[B\] back-off; u32\[B+1\] first trigram of each bigram; u16\[T\] third word (ascending); i16\[T\]
//! log-probability. Ids 0..W-3 are the lexicon's words, W-2 is `<s>`, W-1 is `</s>`; units are thousandths of a nat.
//! Rule: every index is checked when the file is read, none when a word is looked up.

use super::lexicon::WordId;

const MAGIC: &[u8; 8] = b"AURALM01";

/// The two words before, the newest last; `None` is a word that the model does not know, and ends the context.
pub type Context = [Option<WordId>; 2];

/// A trigram model.
#[derive(Debug)]
pub struct LanguageModel {
    start: WordId,
    end: WordId,
    unigram: Vec<i16>,
    unigram_back_off: Vec<i16>,
    bigrams_from: Vec<u32>,
    bigram_word: Vec<u16>,
    bigram: Vec<i16>,
    bigram_back_off: Vec<i16>,
    trigrams_from: Vec<u32>,
    trigram_word: Vec<u16>,
    trigram: Vec<i16>,
}

/// Takes arrays off the front of a file.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize, T>(&mut self, count: usize, convert: fn([u8; N]) -> T) -> Result<Vec<T>, String> {
        let bytes = count.checked_mul(N).filter(|&bytes| bytes <= self.0.len());
        let Some(bytes) = bytes else { return Err(format!("it ends {} bytes into an array of {count} values", self.0.len())) };
        let (array, rest) = self.0.split_at(bytes);
        self.0 = rest;
        Ok(array.as_chunks::<N>().0.iter().map(|&value| convert(value)).collect())
    }
}

impl LanguageModel {
    /// Reads the file for a lexicon of `words` words.
    ///
    /// # Errors
    /// A sentence saying what is wrong with it.
    pub fn read(file: &[u8], words: usize) -> Result<Self, String> {
        let body = file.strip_prefix(MAGIC).ok_or("it does not begin with AURALM01")?;
        let mut reader = Reader(body);
        let sizes = reader.take(3, u32::from_le_bytes)?;
        let (size, bigrams, trigrams) = (sizes[0] as usize, sizes[1] as usize, sizes[2] as usize);
        if size != words + 2 {
            return Err(format!("it knows {} words, the lexicon has {words}", size.saturating_sub(2)));
        }
        let model = Self {
            start: WordId(words as u32),
            end: WordId(words as u32 + 1),
            unigram: reader.take(size, i16::from_le_bytes)?,
            unigram_back_off: reader.take(size, i16::from_le_bytes)?,
            bigrams_from: reader.take(size + 1, u32::from_le_bytes)?,
            bigram_word: reader.take(bigrams, u16::from_le_bytes)?,
            bigram: reader.take(bigrams, i16::from_le_bytes)?,
            bigram_back_off: reader.take(bigrams, i16::from_le_bytes)?,
            trigrams_from: reader.take(bigrams.saturating_add(1), u32::from_le_bytes)?,
            trigram_word: reader.take(trigrams, u16::from_le_bytes)?,
            trigram: reader.take(trigrams, i16::from_le_bytes)?,
        };
        if !reader.0.is_empty() {
            return Err(format!("{} bytes are left at its end", reader.0.len()));
        }
        let ascending = |from: &[u32], total: usize| {
            from.first() == Some(&0) && from.last() == Some(&(total as u32)) && from.windows(2).all(|pair| pair[0] <= pair[1])
        };
        if !ascending(&model.bigrams_from, bigrams) || !ascending(&model.trigrams_from, trigrams) {
            return Err("its index is not ascending".to_owned());
        }
        Ok(model)
    }

    /// The context at the beginning of a segment.
    pub fn start(&self) -> Context {
        [Some(self.start); 2]
    }

    /// `ln P(word | context)`.
    pub fn log_prob(&self, context: Context, word: WordId) -> f32 {
        self.look_up(context, word) as f32 / 1000.0
    }

    /// `ln P(end of the segment | context)`.
    pub fn log_prob_end(&self, context: Context) -> f32 {
        self.log_prob(context, self.end)
    }

    fn look_up(&self, [older, newer]: Context, word: WordId) -> i32 {
        let unigram = i32::from(self.unigram[word.0 as usize]);
        let Some(newer) = newer else { return unigram };
        let mut back_off = 0;
        if let Some(pair) = older.and_then(|older| self.pair(older, newer)) {
            let (from, to) = (self.trigrams_from[pair] as usize, self.trigrams_from[pair + 1] as usize);
            if let Ok(index) = self.trigram_word[from..to].binary_search(&(word.0 as u16)) {
                return i32::from(self.trigram[from + index]);
            }
            back_off = i32::from(self.bigram_back_off[pair]);
        }
        back_off
            + match self.pair(newer, word) {
                Some(pair) => i32::from(self.bigram[pair]),
                None => i32::from(self.unigram_back_off[newer.0 as usize]) + unigram,
            }
    }

    fn pair(&self, first: WordId, second: WordId) -> Option<usize> {
        let (from, to) = (self.bigrams_from[first.0 as usize] as usize, self.bigrams_from[first.0 as usize + 1] as usize);
        self.bigram_word[from..to].binary_search(&(second.0 as u16)).ok().map(|index| from + index)
    }
}
