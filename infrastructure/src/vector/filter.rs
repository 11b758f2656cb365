//! Filters on metadata, in Chroma's JSON syntax, read once and understood the same by every engine.
//!
//! `{"lang": "en", "year": {"$gte": 2020}}`, `{"$or": [{"tag": {"$in": ["a", "b"]}}, {"$not": {"draft": true}}]}`. Operators: `$eq $ne $gt $gte
//! $lt $lte $in $nin $exists` on a field, `$and $or $not` over filters. Values have types: the number 1, the text "1" and true differ. A
//! comparison is about numbers; a record without the field, or with a value of another type, does not fit it. `$ne`, `$nin` and `$not` are
//! the exact opposites, so such records fit them.

mod parse;

use super::{Metadata, Value};

/// Filters deeper than this are refused.
pub const MAX_DEPTH: usize = 8;
/// Filters of more tests and joints than this are refused.
pub const MAX_NODES: usize = 256;
/// `$in` and `$nin` take so many values.
pub const MAX_VALUES: usize = 1_000;

/// Which records fit.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// Those that fit all of these; everything when there are none.
    All(Vec<Filter>),
    /// Those that fit any of these.
    Any(Vec<Filter>),
    /// Those that do not fit this.
    Not(Box<Filter>),
    /// Those whose field passes the test.
    Field {
        /// Which field.
        key: String,
        /// What of it.
        test: Test,
    },
}

/// What is asked of a field.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// It is one of these, type and value.
    In(Vec<Value>),
    /// It is a number that stands so to this one.
    Compare(Comparison, f64),
    /// It is there.
    Exists,
}

/// How two numbers stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Greater.
    Greater,
    /// Greater or the same.
    GreaterOrSame,
    /// Less.
    Less,
    /// Less or the same.
    LessOrSame,
}

impl Comparison {
    /// Whether `left` stands so to `right`.
    pub fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Self::Greater => left > right,
            Self::GreaterOrSame => left >= right,
            Self::Less => left < right,
            Self::LessOrSame => left <= right,
        }
    }

    /// What holds of two numbers exactly when this does not.
    pub fn opposite(self) -> Self {
        match self {
            Self::Greater => Self::LessOrSame,
            Self::GreaterOrSame => Self::Less,
            Self::Less => Self::GreaterOrSame,
            Self::LessOrSame => Self::Greater,
        }
    }

    /// As a filter writes it.
    pub fn operator(self) -> &'static str {
        match self {
            Self::Greater => "$gt",
            Self::GreaterOrSame => "$gte",
            Self::Less => "$lt",
            Self::LessOrSame => "$lte",
        }
    }
}

/// Why a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filter, at {at}: {what}")]
pub struct FilterError {
    /// Where, as a JSON path (`$` is the whole).
    pub at: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl Filter {
    /// Reads a filter.
    pub fn parse(json: &serde_json::Value) -> Result<Self, FilterError> {
        parse::filter(json)
    }

    /// Reads a filter's text.
    pub fn parse_text(text: &str) -> Result<Self, FilterError> {
        let json = serde_json::from_str(text).map_err(|why| FilterError { at: "$".into(), what: format!("it is not JSON: {why}") })?;
        Self::parse(&json)
    }

    /// Whether it fits every record.
    pub fn is_everything(&self) -> bool {
        matches!(self, Self::All(parts) if parts.iter().all(Self::is_everything))
    }

    /// Whether a record fits.
    pub fn fits(&self, metadata: &Metadata) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.fits(metadata)),
            Self::Any(parts) => parts.iter().any(|part| part.fits(metadata)),
            Self::Not(part) => !part.fits(metadata),
            Self::Field { key, test } => metadata.get(key).is_some_and(|value| test.passes(value)),
        }
    }
}

impl Test {
    fn passes(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Exists, _) => true,
            (Self::In(values), value) => values.contains(value),
            (Self::Compare(comparison, right), Value::Number(left)) => comparison.holds(*left, *right),
            (Self::Compare(..), _) => false,
        }
    }
}
