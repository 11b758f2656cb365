//! What every engine must do, as functions of a [`Bench`]: an engine and how to make specs for it. A file for an engine says `conformance!(bench)`,
//! with a function that makes its bench, and has a test for each.
//!
//! Sandboxes need a POSIX `sh` with `cat`, `dd`, `head`, `id`, `kill`, `ls`, `mkdir`, `sleep`, `stty` and `test`: busybox is enough.

pub mod escape;
pub mod exec;
pub mod files;
pub mod life;
pub mod limits;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use auralink_infrastructure::tenant::Tenant;
use auralink_infrastructure::vm::{
    Engine, Exec, ExecInput, ExecOutput, ExecSpec, ExitStatus, Limits, Network, SandboxId, Source, Spec, VmError,
};

/// Longer than anything takes on a busy machine; no test waits for it unless something hangs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What an engine may do otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Expect {
    /// Programs can run as another user than the sandbox's own.
    pub users: bool,
    /// Memory, process and CPU limits are held for the sandbox as a whole.
    pub limits: bool,
    /// It can be frozen.
    pub pause: bool,
    /// Snapshots can be taken.
    pub snapshot: bool,
    /// A kernel of its own: what a program sees of `/proc` and `/sys`, and mounts there, is not the host's.
    pub own_kernel: bool,
    /// Terminals.
    pub tty: bool,
    /// The disk limit is held.
    pub disk: bool,
    /// A new value of the engine finds running sandboxes again.
    pub adopts: bool,
}

impl Expect {
    /// Everything, on the host's kernel.
    pub const ALL: Self =
        Self { users: true, limits: true, pause: true, snapshot: true, own_kernel: false, tty: true, disk: true, adopts: true };
}

/// An engine under test.
pub struct Bench {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// Another value of the same engine, as a restarted server makes it.
    pub again: Box<dyn Fn() -> Arc<dyn Engine> + Send + Sync>,
    /// What its sandboxes begin from.
    pub source: Source,
    /// What it may do otherwise.
    pub expect: Expect,
    /// Homes of its sandboxes.
    pub homes: tempfile::TempDir,
}

impl Bench {
    /// A spec with limits that do not disturb.
    pub fn spec(&self) -> Spec {
        Spec {
            tenant: "tests".parse::<Tenant>().expect("a plain name"),
            source: self.source.clone(),
            limits: Limits { cpu_millis: 2_000, memory_bytes: 256 << 20, disk_bytes: 256 << 20, processes: 128, lifetime_s: 0 },
            network: Network::None,
            env: BTreeMap::from([("FLAVOUR".to_owned(), "plain".to_owned())]),
            workdir: "/workspace".into(),
            labels: BTreeMap::new(),
            runtime: String::new(),
            shared: Vec::new(),
        }
    }

    /// A sandbox that runs.
    pub async fn sandbox(&self) -> Sandbox<'_> {
        self.sandbox_of(self.spec()).await
    }

    /// The same with another spec.
    pub async fn sandbox_of(&self, spec: Spec) -> Sandbox<'_> {
        let sandbox = self.made(spec).await;
        sandbox.engine.start(&sandbox.id, &sandbox.spec, &sandbox.home).await.unwrap();
        sandbox
    }

    /// One that is made and not started.
    pub async fn made(&self, spec: Spec) -> Sandbox<'_> {
        let id = SandboxId::random().unwrap();
        let home = self.homes.path().join(id.as_str());
        std::fs::create_dir(&home).unwrap();
        std::os::unix::fs::PermissionsExt::set_mode(&mut std::fs::metadata(&home).unwrap().permissions(), 0o700);
        self.engine.create(&id, &spec, &home).await.unwrap();
        Sandbox { engine: self.engine.clone(), bench: std::marker::PhantomData, id, home, spec }
    }
}

/// A sandbox under test. End it with [`Sandbox::delete`]; what a failed test leaves is removed by [`Drop`].
pub struct Sandbox<'a> {
    pub engine: Arc<dyn Engine>,
    bench: std::marker::PhantomData<&'a Bench>,
    pub id: SandboxId,
    pub home: PathBuf,
    pub spec: Spec,
}

/// What came of a program.
#[derive(Debug)]
pub struct Finished {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub status: Result<ExitStatus, VmError>,
}

impl Finished {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Its exit code; panics with everything else when it has none.
    pub fn code(&self) -> i32 {
        match &self.status {
            Ok(status) => status.code,
            Err(error) => panic!("{error}; stdout {}; stderr {}", self.text(), String::from_utf8_lossy(&self.stderr)),
        }
    }
}

/// `sh -c SCRIPT`.
pub fn sh(script: &str) -> ExecSpec {
    ExecSpec { argv: ["sh", "-c", script].map(str::to_owned).into(), ..ExecSpec::default() }
}

impl Sandbox<'_> {
    /// The same sandbox by another value of its engine.
    pub fn with(&self, engine: Arc<dyn Engine>) -> Self {
        Self { engine, bench: self.bench, id: self.id.clone(), home: self.home.clone(), spec: self.spec.clone() }
    }

    /// What a connection by busybox answers; `no` when there is none.
    pub async fn reach(&self, address: &str, port: u16) -> String {
        self.out(&format!("nc -w 3 {address} {port} </dev/null 2>/dev/null || echo no")).await
    }

    /// Begins a program.
    pub async fn exec(&self, exec: ExecSpec) -> Result<Exec, VmError> {
        self.engine.exec(&self.id, &self.home, exec).await
    }

    /// Runs a program to its end.
    pub async fn run(&self, exec: ExecSpec) -> Finished {
        let exec = self.exec(exec).await.unwrap();
        finish(exec).await
    }

    /// Runs a script to its end.
    pub async fn sh(&self, script: &str) -> Finished {
        self.run(sh(script)).await
    }

    /// Runs a script that must succeed; its output.
    pub async fn out(&self, script: &str) -> String {
        let finished = self.sh(script).await;
        assert_eq!(finished.code(), 0, "`{script}` answered {:?} and {}", finished.text(), String::from_utf8_lossy(&finished.stderr));
        finished.text()
    }

    /// Writes a file.
    pub async fn write(&self, path: &str, content: &[u8]) -> Result<(), VmError> {
        self.engine.write_file(&self.id, &self.home, path, 0o644, content.len() as u64, &mut &content[..]).await
    }

    /// Reads a file.
    pub async fn read(&self, path: &str) -> Result<Vec<u8>, VmError> {
        let (_, mut reader) = self.engine.read_file(&self.id, &self.home, path).await?;
        let mut content = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut content).await.unwrap();
        Ok(content)
    }

    /// Ends and removes it.
    pub async fn delete(&self) {
        self.engine.delete(&self.id, &self.home).await.unwrap();
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        // After a panic only: a test that passes has deleted it.
        if std::thread::panicking() {
            let (engine, id, home) = (self.engine.clone(), self.id.clone(), self.home.clone());
            let removal = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                if let Err(error) = runtime.block_on(engine.delete(&id, &home)) {
                    eprintln!("what the failed test left could not be removed: {error}");
                }
            });
            let _ = removal.join();
        }
    }
}

/// Everything that comes of a program.
pub async fn finish(exec: Exec) -> Finished {
    let Exec { input, mut output } = exec;
    drop(input);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        let item = tokio::time::timeout(PATIENCE, output.recv())
            .await
            .unwrap_or_else(|_| panic!("no end; so far {:?} {:?}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)));
        match item {
            Some(Ok(ExecOutput::Stdout(bytes))) => stdout.extend_from_slice(&bytes),
            Some(Ok(ExecOutput::Stderr(bytes))) => stderr.extend_from_slice(&bytes),
            Some(Ok(ExecOutput::Exited(status))) => return Finished { stdout, stderr, status: Ok(status) },
            Some(Err(error)) => return Finished { stdout, stderr, status: Err(error) },
            None => return Finished { stdout, stderr, status: Err(VmError::Ended("the output ended".into())) },
        }
    }
}

/// Reads until the program has written `word`.
pub async fn until(exec: &mut Exec, word: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(word) {
        match tokio::time::timeout(PATIENCE, exec.output.recv()).await {
            Ok(Some(Ok(ExecOutput::Stdout(bytes) | ExecOutput::Stderr(bytes)))) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("waited for {word:?}, saw {seen:?}, then {other:?}"),
        }
    }
    seen
}

/// Sends to a program.
pub async fn send(exec: &Exec, input: ExecInput) {
    tokio::time::timeout(PATIENCE, exec.input.send(input)).await.unwrap().unwrap();
}

/// Asks again and again until `holds`.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < until, "it never came to this: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A test for each behaviour, of the bench that `$bench().await` makes.
#[macro_export]
macro_rules! conformance {
    ($bench:path) => {
        $crate::conformance!($bench; exec:
            exit_codes_and_streams_apart, standard_input_comes_back, environment_folder_and_user, a_missing_program_is_told,
            a_flood_is_held_back, timeouts_kill, signals_reach_it, a_terminal_has_a_size, dropping_the_output_kills, many_at_once);
        $crate::conformance!($bench; files:
            files_go_in_and_out, a_short_upload_leaves_nothing, folders_are_listed, what_is_missing_is_told, links_in_uploads_stay_inside, ports_are_reached);
        $crate::conformance!($bench; life:
            conditions_follow_its_life, stopping_keeps_files, a_paused_one_waits, deleting_leaves_nothing, another_server_adopts_it,
            strays_are_found_and_removed, usage_is_told, a_snapshot_begins_again, what_cannot_be_is_refused);
        $crate::conformance!($bench; limits:
            a_memory_bomb_is_killed_and_told, a_fork_bomb_is_contained, a_disk_bomb_is_contained, cpu_is_limited);
        $crate::conformance!($bench; escape:
            host_files_are_not_seen, host_processes_are_not_seen, the_host_network_is_not_reached, nothing_is_gained_by_set_user_id,
            devices_cannot_be_made, the_kernel_is_not_written_to, mounts_and_traces_are_refused, abstract_sockets_are_its_own);
    };
    ($bench:path; $module:ident: $($behaviour:ident),+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                $crate::conformance::$module::$behaviour(&$bench().await).await;
            }
        )+
    };
}
