//! What the storage adapters add to their engines' own clients, for small files: writes and reads of 4 KiB, one after the other.
//!
//! `bench_storage [FOLDER]` measures a local folder (beside OpenDAL's `fs` with its atomic writes, and beside plain `std::fs`), and, when MinIO is in
//! `$AURALINK_CACHE/tools`, S3 (beside OpenDAL's `s3`). The goal: at most 1 ms more, at the median.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use auralink_infrastructure::secret::SecretSource;
use auralink_infrastructure::storage::{Content, LocalConfig, S3Config, Store, StoreConfig, StorePath, TenantStore};
use futures_util::TryStreamExt;
use opendal::Operator;

const ROUNDS: usize = 300;
const BYTES: usize = 4_096;

type Failed = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let folder =
        std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from).join(format!("bench-storage-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    println!("{:<10} {:<22} {:>12} {:>12}", "store", "client", "write p50", "read p50");
    let measured = measure(&folder).await;
    std::fs::remove_dir_all(&folder)?;
    measured
}

async fn measure(folder: &Path) -> Result<(), Failed> {
    let (ours_at, raw_at, plain_at) = (folder.join("ours"), folder.join("raw"), folder.join("plain"));
    std::fs::create_dir_all(&plain_at)?;
    let config = StoreConfig::Local(LocalConfig { root: ours_at, shared: false, max_file_bytes: 1 << 30 });
    let ours = adapter(&Store::open("bench", &config, folder)?.of(&Default::default())).await?;
    let fs =
        opendal::services::Fs::default().root(&raw_at.to_string_lossy()).atomic_write_dir(&folder.join("raw-partial").to_string_lossy());
    let raw = client(&Operator::new(fs)?).await?;
    let plain = plain(&plain_at)?;
    show("local", "auralink", ours);
    show("local", "opendal fs, atomic", raw);
    show("local", "std::fs, synced", plain);
    verdict("local", ours, raw);
    let Some(minio) = Minio::start(folder).await? else {
        println!("s3: MinIO is not there: run `make setup`");
        return Ok(());
    };
    for (file, text) in [("key", Minio::USER), ("secret", Minio::PASSWORD)] {
        std::fs::write(folder.join(file), text)?;
    }
    let config = StoreConfig::S3(S3Config {
        bucket: Minio::BUCKET.into(),
        endpoint: Some(minio.endpoint.clone()),
        region: "us-east-1".into(),
        root: "ours".into(),
        access_key_id: SecretSource::File(folder.join("key")),
        secret_access_key: SecretSource::File(folder.join("secret")),
        shared: false,
        max_file_bytes: 1 << 30,
    });
    let ours = adapter(&Store::open("bench", &config, folder)?.of(&Default::default())).await?;
    let s3 = opendal::services::S3::default()
        .bucket(Minio::BUCKET)
        .endpoint(&minio.endpoint)
        .region("us-east-1")
        .root("/raw")
        .access_key_id(Minio::USER)
        .secret_access_key(Minio::PASSWORD)
        .disable_config_load()
        .disable_ec2_metadata();
    let raw = client(&Operator::new(s3)?).await?;
    show("s3", "auralink", ours);
    show("s3", "opendal s3", raw);
    verdict("s3", ours, raw);
    Ok(())
}

/// Medians of writing and of reading.
type Medians = (Duration, Duration);

async fn adapter(store: &TenantStore) -> Result<Medians, Failed> {
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let path: StorePath = format!("file-{}", round % 10).parse()?;
        let began = Instant::now();
        store.write(&path, Content::bytes(vec![round as u8; BYTES])).await?;
        writes.push(began.elapsed());
        let began = Instant::now();
        let reading = store.read(&path, 0, None, None).await?;
        let bytes: Vec<bytes::Bytes> = reading.stream.try_collect().await?;
        assert_eq!(bytes.concat().len(), BYTES);
        reads.push(began.elapsed());
    }
    Ok((median(writes), median(reads)))
}

async fn client(operator: &Operator) -> Result<Medians, Failed> {
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let path = format!("file-{}", round % 10);
        let began = Instant::now();
        operator.write(&path, vec![round as u8; BYTES]).await?;
        writes.push(began.elapsed());
        let began = Instant::now();
        assert_eq!(operator.read(&path).await?.len(), BYTES);
        reads.push(began.elapsed());
    }
    Ok((median(writes), median(reads)))
}

fn plain(folder: &Path) -> Result<Medians, Failed> {
    use std::io::Write;
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (path, part) = (folder.join(format!("file-{}", round % 10)), folder.join("part"));
        let began = Instant::now();
        let mut file = std::fs::File::create(&part)?;
        file.write_all(&[round as u8; BYTES])?;
        file.sync_all()?;
        std::fs::rename(&part, &path)?;
        std::fs::File::open(folder)?.sync_all()?;
        writes.push(began.elapsed());
        let began = Instant::now();
        assert_eq!(std::fs::read(&path)?.len(), BYTES);
        reads.push(began.elapsed());
    }
    Ok((median(writes), median(reads)))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn show(store: &str, client: &str, (write, read): Medians) {
    println!("{store:<10} {client:<22} {:>9.3} ms {:>9.3} ms", ms(write), ms(read));
}

fn verdict(store: &str, ours: Medians, raw: Medians) {
    let (write, read) = (ms(ours.0) - ms(raw.0), ms(ours.1) - ms(raw.1));
    let word = if write <= 1.0 && read <= 1.0 { "reached" } else { "MISSED" };
    println!("{store:<10} added: write {write:+.3} ms, read {read:+.3} ms; goal at most 1 ms: {word}");
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

struct Minio {
    process: Child,
    endpoint: String,
}

impl Minio {
    const USER: &str = "auralink-bench";
    const PASSWORD: &str = "a-secret-of-benchmarks";
    const BUCKET: &str = "bench";

    async fn start(folder: &Path) -> Result<Option<Self>, Failed> {
        let cache = std::env::var_os("AURALINK_CACHE").map(PathBuf::from);
        let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/auralink")));
        let Some(program) = cache.map(|cache| cache.join("tools/minio")).filter(|program| program.exists()) else { return Ok(None) };
        let data = folder.join("minio");
        std::fs::create_dir_all(data.join(Self::BUCKET))?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let process = Command::new(program)
            .args(["server", "--quiet", "--address", &format!("127.0.0.1:{port}"), "--console-address", "127.0.0.1:0"])
            .arg(data)
            .env_clear()
            .envs([
                ("MINIO_ROOT_USER", Self::USER),
                ("MINIO_ROOT_PASSWORD", Self::PASSWORD),
                ("MINIO_UPDATE", "off"),
                ("HOME", "/nonexistent"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let minio = Self { process, endpoint: format!("http://127.0.0.1:{port}") };
        for _ in 0..300 {
            let ready = reqwest::get(format!("{}/minio/health/ready", minio.endpoint)).await;
            if ready.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(Some(minio));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err("MinIO did not become ready".into())
    }
}

impl Drop for Minio {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
