//! An engine and a state whose every step can be made to fail, or to be the last that the server takes. What they hold outlives the service,
//! as a machine's processes and disk do.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use auralink_infrastructure::state::{Document, Documents, Expect, StateError};
use auralink_infrastructure::tenant::Tenant;
use auralink_infrastructure::vm::service::{Begin, Request, Sandboxes, ServiceConfig};
use auralink_infrastructure::vm::{
    Capabilities, Condition, Engine, Exec, ExecInput, ExecOutput, ExecSpec, ExitStatus, FileEntry, SandboxId, Spec, Stream, Usage, VmError,
};
use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{Notify, mpsc};

/// What happens at the n-th step from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Well,
    /// The server never gets further: the step hangs until the runtime is gone.
    Crash(usize),
    /// The step answers an error, its effect undone or done.
    Fail(usize),
}

#[derive(Default)]
struct Inside {
    sandboxes: BTreeMap<SandboxId, Condition>,
    files: BTreeMap<(SandboxId, String), Vec<u8>>,
    documents: BTreeMap<(String, String), (Value, u64)>,
    steps: usize,
    fate: Option<Fate>,
    /// Messages that an endless program could send.
    pub sent: usize,
    /// Programs whose output nobody takes any more.
    pub abandoned: usize,
}

/// All that is not the service.
#[derive(Default)]
pub struct World {
    inside: Mutex<Inside>,
    pub crashed: Notify,
    pub abandoned: Notify,
}

impl World {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn fate(&self, fate: Fate) {
        let mut inside = self.inside.lock().unwrap();
        inside.steps = 0;
        inside.fate = Some(fate);
    }

    /// Before and after each effect.
    async fn step(&self) -> Result<(), String> {
        let fate = {
            let mut inside = self.inside.lock().unwrap();
            inside.steps += 1;
            let at = inside.steps;
            match inside.fate {
                Some(Fate::Crash(n)) if at == n => Fate::Crash(n),
                Some(Fate::Fail(n)) if at == n => Fate::Fail(n),
                // After the crash nothing else of that server happens either.
                Some(Fate::Crash(n)) if at > n => Fate::Crash(n),
                _ => Fate::Well,
            }
        };
        match fate {
            Fate::Well => Ok(()),
            Fate::Fail(_) => Err("it was made to fail".into()),
            Fate::Crash(_) => {
                self.crashed.notify_one();
                std::future::pending().await
            }
        }
    }

    async fn engine_step(&self) -> Result<(), VmError> {
        self.step().await.map_err(|reason| VmError::Engine { engine: "scripted", reason })
    }

    async fn state_step(&self) -> Result<(), StateError> {
        self.step().await.map_err(StateError::Engine)
    }

    pub fn conditions(&self) -> BTreeMap<SandboxId, Condition> {
        self.inside.lock().unwrap().sandboxes.clone()
    }

    pub fn put(&self, id: SandboxId, condition: Condition) {
        self.inside.lock().unwrap().sandboxes.insert(id, condition);
    }

    pub fn lose(&self, id: &SandboxId) {
        self.inside.lock().unwrap().sandboxes.remove(id);
    }

    pub fn sent(&self) -> usize {
        self.inside.lock().unwrap().sent
    }

    pub fn ended(&self) -> usize {
        self.inside.lock().unwrap().abandoned
    }

    /// Keys of all documents of a collection.
    pub fn keys(&self, collection: &str) -> Vec<String> {
        self.inside.lock().unwrap().documents.keys().filter(|(c, _)| c == collection).map(|(_, key)| key.clone()).collect()
    }

    fn set(&self, id: &SandboxId, from: &[Condition], to: Condition) -> Result<(), VmError> {
        let mut inside = self.inside.lock().unwrap();
        match inside.sandboxes.get_mut(id) {
            Some(now) if from.contains(now) => {
                *now = to;
                Ok(())
            }
            Some(_) => Err(VmError::Condition { is: "otherwise", what: "do something else".into() }),
            None => Err(VmError::NotFound(format!("there is no sandbox {id}"))),
        }
    }
}

/// The engine's and the state's face of the world; a new value is a new process.
pub struct Scripted(pub Arc<World>);

#[async_trait]
impl Engine for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    async fn probe(&self) -> Result<Capabilities, VmError> {
        Ok(Capabilities { pause: true, snapshot: true, tty: true, ..Capabilities::default() })
    }

    async fn create(&self, id: &SandboxId, _: &Spec, home: &Path) -> Result<(), VmError> {
        assert!(std::fs::read_dir(home).unwrap().next().is_none(), "the home is empty");
        self.0.engine_step().await?;
        std::fs::write(home.join("disk"), "x").unwrap();
        self.0.inside.lock().unwrap().sandboxes.insert(id.clone(), Condition::Stopped);
        self.0.engine_step().await
    }

    async fn start(&self, id: &SandboxId, _: &Spec, _: &Path) -> Result<(), VmError> {
        self.0.engine_step().await?;
        self.0.set(id, &[Condition::Stopped], Condition::Running)?;
        self.0.engine_step().await
    }

    async fn stop(&self, id: &SandboxId, _: &Path, _: Duration) -> Result<(), VmError> {
        self.0.engine_step().await?;
        self.0.set(id, &[Condition::Running, Condition::Paused, Condition::Stopped], Condition::Stopped)?;
        self.0.engine_step().await
    }

    async fn pause(&self, id: &SandboxId, _: &Path) -> Result<(), VmError> {
        self.0.engine_step().await?;
        self.0.set(id, &[Condition::Running], Condition::Paused)?;
        self.0.engine_step().await
    }

    async fn resume(&self, id: &SandboxId, _: &Path) -> Result<(), VmError> {
        self.0.engine_step().await?;
        self.0.set(id, &[Condition::Paused], Condition::Running)?;
        self.0.engine_step().await
    }

    async fn snapshot(&self, _: &SandboxId, _: &Path, folder: &Path) -> Result<(), VmError> {
        self.0.engine_step().await?;
        std::fs::write(folder.join("memory"), "x").unwrap();
        self.0.engine_step().await
    }

    async fn delete(&self, id: &SandboxId, _: &Path) -> Result<(), VmError> {
        self.0.engine_step().await?;
        self.0.lose(id);
        self.0.engine_step().await
    }

    async fn condition(&self, id: &SandboxId, _: &Path) -> Result<Condition, VmError> {
        self.0.engine_step().await?;
        Ok(self.0.conditions().get(id).copied().unwrap_or(Condition::Gone))
    }

    async fn found(&self, _: &Path) -> Result<Vec<SandboxId>, VmError> {
        Ok(self.0.conditions().into_keys().collect())
    }

    /// `endless` writes for ever, `true` ends at once, `cat` repeats its input, `sleep` waits for the end of its input.
    async fn exec(&self, _: &SandboxId, _: &Path, exec: ExecSpec) -> Result<Exec, VmError> {
        self.0.engine_step().await?;
        let (input, mut from_caller) = mpsc::channel(4);
        let (to_caller, output) = mpsc::channel(4);
        let world = Arc::clone(&self.0);
        let program = exec.argv[0].clone();
        if !["endless", "true", "cat", "sleep", "dies"].contains(&program.as_str()) {
            return Err(VmError::NoProgram(program));
        }
        tokio::spawn(async move {
            match program.as_str() {
                "endless" => {
                    while to_caller.send(Ok(ExecOutput::Stdout(Bytes::from(vec![b'x'; 65_536])))).await.is_ok() {
                        world.inside.lock().unwrap().sent += 1;
                    }
                    world.inside.lock().unwrap().abandoned += 1;
                    world.abandoned.notify_one();
                    return;
                }
                "dies" => return,
                "cat" | "sleep" => {
                    while let Some(message) = from_caller.recv().await {
                        if let (ExecInput::Stdin(bytes), "cat") = (message, program.as_str()) {
                            let _ = to_caller.send(Ok(ExecOutput::Stdout(bytes))).await;
                        }
                    }
                }
                _ => {}
            }
            let _ = to_caller.send(Ok(ExecOutput::Exited(ExitStatus::default()))).await;
        });
        Ok(Exec { input, output })
    }

    async fn write_file(
        &self,
        id: &SandboxId,
        _: &Path,
        path: &str,
        _: u32,
        size: u64,
        content: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<(), VmError> {
        self.0.engine_step().await?;
        let mut bytes = Vec::new();
        let read = content.take(size).read_to_end(&mut bytes).await;
        read.map_err(|source| VmError::Io { what: "reading what is to be written".into(), source })?;
        if bytes.len() as u64 != size {
            return Err(VmError::Invalid("it ended early".into()));
        }
        self.0.inside.lock().unwrap().files.insert((id.clone(), path.to_owned()), bytes);
        Ok(())
    }

    async fn read_file(&self, id: &SandboxId, _: &Path, path: &str) -> Result<(u64, Box<dyn AsyncRead + Send + Unpin>), VmError> {
        let found = self.0.inside.lock().unwrap().files.get(&(id.clone(), path.to_owned())).cloned();
        let bytes = found.ok_or_else(|| VmError::NotFound(format!("there is no file {path}")))?;
        Ok((bytes.len() as u64, Box::new(std::io::Cursor::new(bytes))))
    }

    async fn list_folder(&self, _: &SandboxId, _: &Path, _: &str, _: usize) -> Result<Vec<FileEntry>, VmError> {
        Ok(Vec::new())
    }

    async fn dial(&self, _: &SandboxId, _: &Path, _: u16) -> Result<Box<dyn Stream>, VmError> {
        Ok(Box::new(tokio::io::duplex(64).0))
    }

    async fn usage(&self, _: &SandboxId, _: &Path) -> Result<Usage, VmError> {
        Ok(Usage::default())
    }
}

#[async_trait]
impl Documents for Scripted {
    async fn get(&self, collection: &str, key: &str) -> Result<Option<Document>, StateError> {
        let inside = self.0.inside.lock().unwrap();
        let found = inside.documents.get(&(collection.to_owned(), key.to_owned()));
        Ok(found.map(|(value, version)| Document { key: key.to_owned(), value: value.clone(), version: *version }))
    }

    async fn put(&self, collection: &str, key: &str, value: &Value, expect: Expect) -> Result<u64, StateError> {
        self.0.state_step().await?;
        let version = {
            let mut inside = self.0.inside.lock().unwrap();
            let place = inside.documents.entry((collection.to_owned(), key.to_owned())).or_insert((Value::Null, 0));
            assert!(expect != Expect::Absent || place.1 == 0);
            *place = (value.clone(), place.1 + 1);
            place.1
        };
        self.0.state_step().await?;
        Ok(version)
    }

    async fn delete(&self, collection: &str, key: &str, _: Expect) -> Result<bool, StateError> {
        self.0.state_step().await?;
        let gone = self.0.inside.lock().unwrap().documents.remove(&(collection.to_owned(), key.to_owned())).is_some();
        self.0.state_step().await?;
        Ok(gone)
    }

    async fn list(&self, collection: &str, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<Document>, StateError> {
        let inside = self.0.inside.lock().unwrap();
        let fits = |c: &str, key: &str| c == collection && key.starts_with(prefix) && after.is_none_or(|after| key > after);
        let found = inside.documents.iter().filter(|((c, key), _)| fits(c, key)).take(limit as usize);
        Ok(found.map(|((_, key), (value, version))| Document { key: key.clone(), value: value.clone(), version: *version }).collect())
    }
}

pub fn tenant(name: &str) -> Tenant {
    name.parse().unwrap()
}

pub fn settings() -> ServiceConfig {
    ServiceConfig { default_engine: "scripted".into(), ..ServiceConfig::default() }
}

/// A new process of the server over the same world and folder.
pub async fn open(world: &Arc<World>, folder: &Path) -> Result<Sandboxes, VmError> {
    open_with(settings(), world, folder).await
}

pub async fn open_with(config: ServiceConfig, world: &Arc<World>, folder: &Path) -> Result<Sandboxes, VmError> {
    Sandboxes::open(config, Arc::new(Scripted(Arc::clone(world))), vec![Arc::new(Scripted(Arc::clone(world)))], folder).await
}

pub fn request() -> Request {
    Request::new(Begin::Host)
}

pub fn program(name: &str) -> ExecSpec {
    ExecSpec { argv: vec![name.into()], ..ExecSpec::default() }
}
