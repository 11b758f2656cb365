//! Records in and out as JSON lines: `{"id": "a", "vector": [0.1, 0.2], "metadata": {"lang": "en"}, "document": "text"}`, one a line.
//!
//! An import is resumed by its line: what [`Progress::next_line`] says is durable up to there, and giving the same file again from that
//! line, or from the beginning, has the same end, since an upsert replaces. A bad line is reported with its number and passed over; the good ones
//! around it go in whole batches.

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Record, Spec, VectorError, Vectors, service};
use crate::tenant::Tenant;

/// Longest line, bytes: 4,096 numbers, 64 KiB of document and 16 KiB of metadata fit with room for escapes.
const MAX_LINE: usize = 1 << 20;
/// Records of one upsert. More: fewer waits for the disk, later progress.
const BATCH: usize = 500;
/// Bad lines that are reported by number; all are counted.
const MAX_REPORTED: usize = 100;
/// Records of one page of an export.
const PAGE: usize = 200;

/// How far an import is.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// Records that are durable.
    pub imported: u64,
    /// Lines that were passed over.
    pub rejected: u64,
    /// The first of these: number (from 1) and reason.
    pub errors: Vec<LineError>,
    /// Every line before this one (from 0) is dealt with: where to resume.
    pub next_line: u64,
}

/// A line that is no record.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LineError {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

impl Progress {
    fn reject(&mut self, line: u64, reason: String) {
        self.rejected += 1;
        if self.errors.len() < MAX_REPORTED {
            self.errors.push(LineError { line: line + 1, reason });
        }
    }
}

/// Why an import stopped, and how far it came.
#[derive(Debug, thiserror::Error)]
#[error("the import stopped at line {}: {why}", .progress.next_line + 1)]
pub struct Stopped {
    /// What is done; resume from its `next_line`.
    pub progress: Progress,
    /// Why.
    #[source]
    pub why: VectorError,
}

impl Vectors {
    /// Reads records from `lines` into a collection, passing over those before `from_line` (from 0). `tell` hears of every batch that
    /// became durable; it answers whether to go on.
    pub async fn import(
        &self,
        tenant: &Tenant,
        name: &str,
        lines: &mut (dyn AsyncBufRead + Send + Unpin),
        from_line: u64,
        tell: &mut (dyn FnMut(&Progress) -> bool + Send),
    ) -> Result<Progress, Stopped> {
        let mut progress = Progress { next_line: from_line, ..Progress::default() };
        match self.import_into(tenant, name, lines, &mut progress, tell).await {
            Ok(()) => Ok(progress),
            Err(why) => Err(Stopped { progress, why }),
        }
    }

    async fn import_into(
        &self,
        tenant: &Tenant,
        name: &str,
        lines: &mut (dyn AsyncBufRead + Send + Unpin),
        progress: &mut Progress,
        tell: &mut (dyn FnMut(&Progress) -> bool + Send),
    ) -> Result<(), VectorError> {
        let spec = self.describe(tenant, name).await?.spec;
        let from_line = progress.next_line;
        let (mut batch, mut bytes, mut line) = (Batch::default(), Vec::new(), 0);
        // Rejections count once their batch is durable: a resumed import tells each once.
        let mut pending = progress.clone();
        while let Some(whole) = next_line(lines, &mut bytes).await? {
            if line >= from_line && !(whole && bytes.trim_ascii().is_empty()) {
                match self.read_line(whole, &bytes, &spec) {
                    Ok(record) => batch.add(record, &mut pending, line),
                    Err(reason) => pending.reject(line, reason),
                }
            }
            line += 1;
            if batch.records.len() >= BATCH.min(self.limits().batch) || batch.bytes * 2 > self.limits().batch_bytes {
                self.flush(tenant, name, &mut batch, progress, &mut pending, line).await?;
                if !tell(progress) {
                    return Ok(());
                }
            }
        }
        self.flush(tenant, name, &mut batch, progress, &mut pending, line.max(from_line)).await?;
        tell(progress);
        Ok(())
    }

    fn read_line(&self, whole: bool, bytes: &[u8], spec: &Spec) -> Result<Record, String> {
        if !whole {
            return Err(format!("it is longer than {MAX_LINE} bytes"));
        }
        let record: Record = serde_json::from_slice(bytes).map_err(|why| format!("it is no record: {why}"))?;
        service::check_record(&record, spec, self.limits())?;
        Ok(record)
    }

    async fn flush(
        &self,
        tenant: &Tenant,
        name: &str,
        batch: &mut Batch,
        done: &mut Progress,
        pending: &mut Progress,
        line: u64,
    ) -> Result<(), VectorError> {
        let batch = std::mem::take(batch);
        let many = batch.records.len() as u64;
        self.upsert(tenant, name, batch.records).await?;
        pending.imported += many;
        pending.next_line = line;
        *done = pending.clone();
        Ok(())
    }

    /// Writes a whole collection as JSON lines; how many records it wrote. What is written to meanwhile may be in it or not.
    pub async fn export(&self, tenant: &Tenant, name: &str, out: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<u64, VectorError> {
        let failed = |why: std::io::Error| VectorError::Invalid(format!("the export cannot be written: {why}"));
        let (mut from, mut written) = (None, 0);
        loop {
            let page = self.page(tenant, name, from.as_deref(), PAGE.min(self.limits().answers)).await?;
            for record in &page.records {
                let mut line = serde_json::to_vec(record).expect("a record's parts are JSON");
                line.push(b'\n');
                out.write_all(&line).await.map_err(failed)?;
                written += 1;
            }
            from = page.next;
            if from.is_none() {
                out.flush().await.map_err(failed)?;
                return Ok(written);
            }
        }
    }
}

#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    ids: std::collections::HashMap<String, usize>,
    bytes: usize,
}

impl Batch {
    /// Adds a record; of two with one id in a batch the later line wins, as it does between batches.
    fn add(&mut self, record: Record, pending: &mut Progress, line: u64) {
        self.bytes += record.vector.len() * 4 + record.document.as_ref().map_or(0, String::len) + 256;
        match self.ids.get(&record.id) {
            Some(place) => {
                pending.reject(
                    line,
                    format!("the id {:?} came shortly before: this line replaces that one", record.id.chars().take(80).collect::<String>()),
                );
                self.records[*place] = record;
            }
            None => {
                self.ids.insert(record.id.clone(), self.records.len());
                self.records.push(record);
            }
        }
    }
}

/// Reads a line without its end into `bytes`; false when it was too long and is not all there, none at the end.
async fn next_line(lines: &mut (dyn AsyncBufRead + Send + Unpin), bytes: &mut Vec<u8>) -> Result<Option<bool>, VectorError> {
    let cut = |why: std::io::Error| VectorError::Invalid(format!("the lines cannot be read on: {why}"));
    bytes.clear();
    let read = (&mut *lines).take(MAX_LINE as u64).read_until(b'\n', bytes).await.map_err(cut)?;
    if read == 0 {
        return Ok(None);
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        return Ok(Some(true));
    }
    if read < MAX_LINE {
        return Ok(Some(true));
    }
    // The rest of a line that is too long is read past in parts.
    loop {
        bytes.clear();
        let read = (&mut *lines).take(MAX_LINE as u64).read_until(b'\n', bytes).await.map_err(cut)?;
        if read == 0 || bytes.last() == Some(&b'\n') {
            return Ok(Some(false));
        }
    }
}
