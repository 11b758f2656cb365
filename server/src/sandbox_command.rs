//! `auralink sandbox`: makes, uses and deletes sandboxes of a running server, by its gRPC API.

mod program;
mod transfer;

use std::path::Path;

use anyhow::Context;
use auralink_proto::v1::sandboxes_client::SandboxesClient;
use auralink_proto::v1::*;
use auralink_signaling::access::{Claims, KeySet};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use crate::caller::{Grant, Scope};
use crate::cli::sandbox::{CreateArgs, GrpcArgs, ImagesCommand, SandboxArgs, SandboxCommand, size};
use crate::token::{data_dir, key_pair};

/// How long a token that a command makes for itself is good.
const TOKEN_LIFE: std::time::Duration = std::time::Duration::from_secs(24 * 3_600);

/// A connection, and the credential that goes with every call.
#[derive(Clone)]
pub struct Client {
    client: SandboxesClient<Channel>,
    bearer: MetadataValue<Ascii>,
}

impl Client {
    async fn connect(args: &GrpcArgs, shared: bool) -> anyhow::Result<Self> {
        let token = match &args.token {
            Some(token) => token.trim().to_owned(),
            None => own_token(args, shared)?,
        };
        let channel = endpoint(args).await?.connect().await.with_context(|| {
            format!("no AuraLink server answers at {}; start one with `auralink`, or name it with --server", args.server)
        })?;
        let bearer = MetadataValue::try_from(format!("Bearer {token}")).context("the token does not fit into a header")?;
        Ok(Self { client: SandboxesClient::new(channel), bearer })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.bearer.clone());
        request
    }
}

/// For what the command does, and nothing more.
fn own_token(args: &GrpcArgs, shared: bool) -> anyhow::Result<String> {
    let (key, secret) = key_pair(&args.client)?;
    let mut scopes = vec![Scope::SandboxesRead, Scope::SandboxesWrite];
    scopes.extend(shared.then_some(Scope::KeysAdmin));
    let mut claims = Claims { identity: "auralink-cli".into(), ..Claims::default() };
    Grant { scopes: scopes.into_iter().collect(), tenant: args.tenant.clone() }.put(&mut claims);
    Ok(KeySet::new([(key.clone(), secret)]).mint(&key, &claims, TOKEN_LIFE)?)
}

async fn endpoint(args: &GrpcArgs) -> anyhow::Result<Endpoint> {
    let server = if args.server.contains("://") { args.server.clone() } else { format!("http://{}", args.server) };
    let endpoint = Endpoint::from_shared(server.clone())
        .with_context(|| format!("`{}` is not an address such as http://127.0.0.1:7890", args.server))?;
    if !server.starts_with("https:") {
        return Ok(endpoint);
    }
    let path = match &args.certificate {
        Some(path) => path.clone(),
        None => crate::tls::self_signed_path(&data_dir(&args.client)?).cert,
    };
    let pem = tokio::fs::read(&path)
        .await
        .with_context(|| format!("the certificate {} cannot be read; name it with --certificate", path.display()))?;
    Ok(endpoint.tls_config(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))?)
}

/// The server's sentence.
fn refused(status: Status) -> anyhow::Error {
    anyhow::anyhow!("the server refused: {}", status.message())
}

/// Does it; answers the exit code.
pub async fn run(args: SandboxArgs) -> anyhow::Result<u8> {
    let shared = matches!(
        &args.command,
        SandboxCommand::Images { command: ImagesCommand::Import { shared: true, .. } | ImagesCommand::Delete { shared: true, .. } }
    );
    let client = Client::connect(&args.grpc, shared).await?;
    let mut grpc = client.client.clone();
    let named = |sandbox: String| client.request(SandboxRequest { sandbox });
    match args.command {
        SandboxCommand::Create(wanted) => {
            let made = grpc.create(client.request(creation(*wanted)?)).await.map_err(refused)?.into_inner();
            println!("{}", made.id);
        }
        SandboxCommand::List { label } => list(&client, label).await?,
        SandboxCommand::Show { sandbox } => show(&client, sandbox).await?,
        SandboxCommand::Exec(exec) => return program::exec(&client, exec).await,
        SandboxCommand::Shell { sandbox, shell } => return program::shell(&client, sandbox, shell).await,
        SandboxCommand::Cp { from, to } => transfer::copy(&client, &from, &to).await?,
        SandboxCommand::Forward { sandbox, ports } => transfer::forward(&client, sandbox, ports).await?,
        SandboxCommand::Logs { sandbox, exec } => logs(&client, sandbox, exec).await?,
        SandboxCommand::Events { sandbox } => events(&client, sandbox.unwrap_or_default()).await?,
        SandboxCommand::Start { sandbox } => drop(grpc.start(named(sandbox)).await.map_err(refused)?),
        SandboxCommand::Pause { sandbox } => drop(grpc.pause(named(sandbox)).await.map_err(refused)?),
        SandboxCommand::Resume { sandbox } => drop(grpc.resume(named(sandbox)).await.map_err(refused)?),
        SandboxCommand::Stop { sandbox, grace } => {
            let grace_ms = Some(u32::try_from(grace.as_millis()).unwrap_or(u32::MAX));
            grpc.stop(client.request(StopSandboxRequest { sandbox, grace_ms })).await.map_err(refused)?;
        }
        SandboxCommand::Snapshot { sandbox } => {
            let taken = grpc.snapshot(client.request(SnapshotSandboxRequest { sandbox, ..Default::default() })).await.map_err(refused)?;
            println!("{}", taken.into_inner().id);
        }
        SandboxCommand::Delete { sandboxes } => {
            for sandbox in sandboxes {
                grpc.delete(named(sandbox)).await.map_err(refused)?;
            }
        }
        SandboxCommand::Images { command } => images(&client, command).await?,
        SandboxCommand::Engines => engines(&client).await?,
    }
    Ok(0)
}

fn creation(wanted: CreateArgs) -> anyhow::Result<CreateSandboxRequest> {
    use create_sandbox_request::Begin;
    let allow = wanted.allow.iter().map(|text| match text.parse::<std::net::SocketAddr>() {
        Ok(both) => SandboxDestination { address: both.ip().to_string(), port: both.port().into() },
        Err(_) => SandboxDestination { address: text.clone(), port: 0 },
    });
    let allow: Vec<_> = allow.collect();
    let kind = match (wanted.nat, allow.is_empty()) {
        (true, _) => sandbox_network::Kind::Nat,
        (false, true) => sandbox_network::Kind::None,
        (false, false) => sandbox_network::Kind::Allow,
    };
    Ok(CreateSandboxRequest {
        name: wanted.name,
        engine: wanted.engine,
        begin: wanted.image.map(Begin::Image).or(wanted.snapshot.map(Begin::Snapshot)).or(wanted.rootfs.map(Begin::Rootfs)),
        limits: Some(SandboxLimits {
            cpu_millis: wanted.cpus,
            memory_bytes: wanted.memory,
            disk_bytes: wanted.disk,
            processes: wanted.processes,
            lifetime_s: wanted.lifetime.map(|time| time.as_secs()),
        }),
        network: Some(SandboxNetwork { kind: kind.into(), allow }),
        env: wanted.env.into_iter().collect(),
        workdir: wanted.workdir,
        labels: wanted.label.into_iter().collect(),
        runtime: wanted.runtime,
        stopped: wanted.stopped,
        tools: Vec::new(),
    })
}

async fn list(client: &Client, label: Vec<(String, String)>) -> anyhow::Result<()> {
    println!("{:<23}  {:<16}  {:<11}  {:<9}  {:>6}  {:>7}  source", "id", "name", "engine", "status", "cpus", "memory");
    let mut page_token = String::new();
    loop {
        let wanted = ListSandboxesRequest { labels: label.iter().cloned().collect(), page_size: 0, page_token };
        let page = client.client.clone().list(client.request(wanted)).await.map_err(refused)?.into_inner();
        for sandbox in page.sandboxes {
            let limits = sandbox.limits.unwrap_or_default();
            let (cpus, memory) = (f64::from(limits.cpu_millis()) / 1_000.0, size(limits.memory_bytes()));
            let (id, name, engine, status, source) = (sandbox.id, sandbox.name, sandbox.engine, sandbox.status, sandbox.source);
            println!("{id:<23}  {name:<16}  {engine:<11}  {status:<9}  {cpus:>6}  {memory:>7}  {source}");
        }
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        page_token = page.next_page_token;
    }
}

async fn show(client: &Client, sandbox: String) -> anyhow::Result<()> {
    let about = client.client.clone().get(client.request(SandboxRequest { sandbox: sandbox.clone() })).await.map_err(refused)?.into_inner();
    let limits = about.limits.unwrap_or_default();
    println!(
        "id         {}\nname       {}\nengine     {}\nsource     {}\nstatus     {}",
        about.id, about.name, about.engine, about.source, about.status
    );
    if !about.why.is_empty() {
        println!("why        {}", about.why);
    }
    let lifetime = if limits.lifetime_s() == 0 { "none".to_owned() } else { format!("{} s", limits.lifetime_s()) };
    println!("cpus       {}", f64::from(limits.cpu_millis()) / 1_000.0);
    println!(
        "memory     {}\ndisk       {}\nprocesses  {}\nlifetime   {lifetime}",
        size(limits.memory_bytes()),
        size(limits.disk_bytes()),
        limits.processes()
    );
    if about.status == "running" {
        let used = client.client.clone().usage(client.request(SandboxRequest { sandbox })).await.map_err(refused)?.into_inner();
        println!("used       {} ms of CPU, {} of memory, {} processes", used.cpu_us / 1_000, size(used.memory_bytes), used.processes);
    }
    Ok(())
}

async fn logs(client: &Client, sandbox: String, exec: u32) -> anyhow::Result<()> {
    use std::io::Write;
    let answer = client.client.clone().logs(client.request(SandboxLogsRequest { sandbox, exec })).await.map_err(refused)?.into_inner();
    for log in answer.logs {
        eprintln!(
            "--- {} {:?}{}",
            log.exec,
            log.argv,
            if log.dropped > 0 { format!(", {} bytes before this are gone", log.dropped) } else { String::new() }
        );
        for chunk in log.chunks {
            match chunk.stderr {
                true => std::io::stderr().write_all(&chunk.content)?,
                false => std::io::stdout().write_all(&chunk.content)?,
            }
        }
    }
    Ok(())
}

async fn events(client: &Client, sandbox: String) -> anyhow::Result<()> {
    let mut events = client.client.clone().events(client.request(SandboxEventsRequest { sandbox })).await.map_err(refused)?.into_inner();
    while let Some(event) = events.message().await.map_err(refused)? {
        println!("{}.{:03}  {}  {}  {}", event.at_ms / 1_000, event.at_ms % 1_000, event.sandbox, event.kind, event.detail);
    }
    Ok(())
}

async fn images(client: &Client, command: ImagesCommand) -> anyhow::Result<()> {
    let mut grpc = client.client.clone();
    match command {
        ImagesCommand::Import { name, file, shared } => {
            let image = transfer::import(client, name, shared, Path::new(&file)).await?;
            eprintln!(
                "{}: {} in {} entries; left out: {} devices, {} set-user-id bits",
                image.name,
                size(image.bytes),
                image.entries,
                image.dropped,
                image.stripped
            );
            println!("{}", image.digest);
        }
        ImagesCommand::List => {
            println!("{:<32}  {:>7}  {:<12}  shared", "name", "size", "digest");
            for image in grpc.list_images(client.request(ListImagesRequest {})).await.map_err(refused)?.into_inner().images {
                println!(
                    "{:<32}  {:>7}  {:<12.12}  {}",
                    image.name,
                    size(image.bytes),
                    image.digest,
                    if image.shared { "yes" } else { "no" }
                );
            }
        }
        ImagesCommand::Delete { name, shared } => {
            drop(grpc.delete_image(client.request(DeleteImageRequest { name, shared })).await.map_err(refused)?)
        }
    }
    Ok(())
}

async fn engines(client: &Client) -> anyhow::Result<()> {
    let engines = client.client.clone().engines(client.request(ListEnginesRequest {})).await.map_err(refused)?.into_inner().engines;
    for engine in engines {
        let default = if engine.default { " (default)" } else { "" };
        if !engine.usable {
            println!("{}{default}: cannot be used: {}", engine.name, engine.reason);
            continue;
        }
        let can = [
            ("pause", engine.pause),
            ("snapshot", engine.snapshot),
            ("tty", engine.tty),
            ("nat", engine.nat),
            ("allow-list", engine.allow_list),
        ];
        let can: Vec<&str> = can.into_iter().filter(|(_, can)| *can).map(|(name, _)| name).collect();
        println!("{}{default}: {}", engine.name, can.join(", "));
        for note in engine.notes {
            println!("    {note}");
        }
    }
    Ok(())
}
