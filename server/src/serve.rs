//! `auralink serve`: puts the parts together, prints one URL, and takes them apart again in order.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use auralink_infrastructure::queue::Queue;
use auralink_infrastructure::state::State;
use auralink_media::control::{MAX_SHARDS, MediaConfig};
use auralink_media::net::Sfu;
use auralink_signaling::access::KeySet;
use auralink_signaling::rooms::{Limits, Rooms, RoomsConfig, media_events};
use axum::Router;
use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::signal::unix::{SignalKind, signal};

use crate::api::{ApiState, RoomsState};
use crate::api_keys::ApiKeys;
use crate::caller::{Callers, Rate};
use crate::captions::{Captions, CaptionsParts};
use crate::cli::{ServeArgs, TlsMode};
use crate::config::Config;
use crate::connection::Acceptor;
use crate::correlation::correlate;
use crate::credentials::Credentials;
use crate::embeddings::Embeddings;
use crate::jobs::{Jobs, start_worker};
use crate::sandboxes::Sandboxes;
use crate::schedules::Schedules;
use crate::vector_imports::VectorImports;
use crate::vectors::VectorStore;
use crate::{addresses, grpc, http, keys, speech, telemetry, tls, work};

/// Audio packets that a shard's tap ring holds: 100 speakers for about 400 ms.
const TAP_RING: usize = 2_048;

/// How long the headers of a request may take, and a connection may wait for its next request.
const HEADERS: Duration = Duration::from_secs(30);

/// HTTP/2: between two pings of a quiet connection, and how long an answer may take.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// HTTP/2: requests at once on one connection. A service that follows many rooms opens one stream for each.
const STREAMS_PER_CONNECTION: u32 = 256;

/// HTTP/2: a token with 64 KiB attributes fits; HTTP/1 has about 400 KiB by its library.
const HEADER_BYTES: u32 = 256 * 1024;

/// How long open requests may finish after SIGTERM.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let config = configuration(&args)?;
    telemetry::start_logs(&config.logging)?;
    let recorder = telemetry::start_metrics()?;
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        bail!("another TLS provider was installed before");
    }
    let data_dir = config.data_dir();
    let credentials = if args.dev { Credentials::dev() } else { Credentials::read_or_create(&data_dir)? };
    let keys = key_set(&config, &credentials)?;
    let addresses = addresses::concrete(&config.bind_addresses).context("the interfaces of this machine cannot be listed")?;
    let certificate = tls::certificate(&config.tls, &data_dir, &addresses)?;
    let secure = certificate.is_some();

    // Ports first: a port in use is found before anything else is started.
    let http_listeners = listen(&config.bind_addresses, config.port, "HTTP", "`port`, or --port")?;
    let grpc_listeners = match config.grpc_port {
        0 => Vec::new(),
        port => listen(&config.bind_addresses, port, "gRPC", "`grpc_port`, or --grpc-port")?,
    };

    // Then the state: what cannot be kept is not begun.
    let state = State::open(&config.state()?).await.context("the state cannot be opened")?;
    let queue_config = config.queue.opened_with().context("the queue's engine cannot be reached")?;
    let jobs = Jobs::new(Queue::open(queue_config, &state).await?);

    let media_config = media_config(&config, &addresses);
    let (producers, taps) = (0..media_config.shards).map(|_| rtrb::RingBuffer::new(TAP_RING)).unzip();
    let (sink, events) = media_events();
    let udp = media_config.udp_bind.clone();
    let sfu = Sfu::start(media_config, Arc::new(move |event| sink.send(event)), producers)
        .with_context(|| format!("media cannot be served on UDP {}; another port: `rtc: {{udp_port: ...}}`, or --udp-port", list(&udp)))?;
    let media = sfu.handle();
    let rooms = Rooms::new(media.clone(), events, keys.clone(), rooms_config(&config));

    let engine = speech::start(&config.ai);
    if let Err(reason) = &engine {
        tracing::error!(reason, "captions are off; rooms work without them");
    }
    let captions = Captions::start(CaptionsParts {
        rooms: rooms.clone(),
        media: media.clone(),
        engine,
        taps,
        default_on: config.captions.default,
        endpoint_silence_ms: config.captions.endpoint_silence_ms,
        translation: speech::start_translation(&config.ai),
    })?;

    let embeddings = Embeddings::new(&config.embeddings, &config.ai);
    let vectors = VectorStore::open(&config.vectors, &data_dir, embeddings.clone())?;
    let speech = captions.engine().cloned().map_err(ToString::to_string);
    let files = work::files(&config, &data_dir, &state, jobs.queue(), speech, Ok(&vectors)).await?;
    let imports = VectorImports::new(vectors.clone(), files.clone(), jobs.queue().clone());
    let schedules = Schedules::new(jobs.queue().clone(), files.clone(), imports.clone());
    let sandboxes = Sandboxes::open(&config.sandboxes, Arc::new(state.clone()), &data_dir).await;

    let worker = start_worker(jobs.queue(), config.queue.concurrency, work::handlers(&files, &imports))?;

    let rate = Rate { per_second: config.api.requests_per_second, burst: f64::from(config.api.burst) };
    let callers = Callers::new(keys, ApiKeys::new(Arc::new(state.clone())), rate);
    let api = ApiState {
        rooms: RoomsState { rooms: rooms.clone(), captions: captions.clone(), invite: credentials.invite.clone() },
        callers: callers.clone(),
        embeddings,
        vectors: vectors.clone(),
        imports: imports.clone(),
        jobs: jobs.clone(),
        schedules: schedules.clone(),
        sandboxes: sandboxes.clone(),
        files: files.clone(),
        config: config.api.clone(),
    };
    let app = http::router(&api, recorder, media);
    let services =
        grpc::Parts { rooms: rooms.clone(), captions: captions.clone(), callers, jobs, sandboxes, files, vectors, imports, schedules };
    let grpc_app = grpc::routes(services).await?.into_axum_router().layer(axum::middleware::from_fn(correlate));
    let tls_config = match &certificate {
        Some(files) => Some(tls::load(files).await?),
        None => None,
    };

    let (handle, acceptor) = (Handle::new(), Acceptor::new());
    let mut servers = tokio::task::JoinSet::new();
    for (listeners, app) in [(http_listeners, app), (grpc_listeners, grpc_app)] {
        for listener in listeners {
            servers.spawn(serve(listener, app.clone(), tls_config.clone(), acceptor.clone(), handle.clone()));
        }
    }
    announce(&config, &addresses, secure, &credentials, &captions, args.dev);

    tokio::select! {
        done = servers.join_next() => {
            if let Some(result) = done {
                result.context("a listener ended")?.context("a listener failed")?;
            }
        }
        name = stop_signal() => tracing::info!(signal = name?, "stopping: participants are told to leave"),
    }
    rooms.shutdown().await;
    handle.graceful_shutdown(Some(DRAIN));
    while servers.join_next().await.is_some() {}
    worker.stop(DRAIN).await;
    state.close().await;
    tokio::task::spawn_blocking(move || sfu.stop()).await?;
    tracing::info!("stopped");
    Ok(())
}

/// File or text, then environment, then flags.
fn configuration(args: &ServeArgs) -> anyhow::Result<Config> {
    let mut config = match (&args.config, &args.config_body) {
        (Some(path), _) => Config::read(path)?,
        (None, Some(text)) => Config::parse(text, "LIVEKIT_CONFIG")?,
        (None, None) => Config::default(),
    };
    config.keys.add_from_environment()?;
    if !args.bind.is_empty() {
        config.bind_addresses.clone_from(&args.bind);
    }
    config.port = args.port.unwrap_or(config.port);
    config.grpc_port = args.grpc_port.unwrap_or(config.grpc_port);
    config.rtc.udp_port = args.udp_port.or(config.rtc.udp_port);
    config.rtc.node_ip = args.node_ip.or(config.rtc.node_ip);
    config.data_dir = args.data_dir.clone().or(config.data_dir);
    match args.tls {
        Some(TlsMode::SelfSigned) => config.tls.self_signed = true,
        Some(TlsMode::Off) => config.tls = crate::config::TlsConfig::default(),
        None => {}
    }
    Ok(config)
}

/// The configured keys with those of the key file, which is followed from now on; those that the first start made when there are none.
fn key_set(config: &Config, credentials: &Credentials) -> anyhow::Result<KeySet> {
    let configured = keys::configured(config)?;
    if configured.0.is_empty() {
        return Ok(KeySet::new(credentials.keys()));
    }
    let set = KeySet::new(configured.0);
    if let Some(path) = &config.key_file {
        tokio::spawn(keys::follow(path.clone(), config.keys.clone(), set.clone()));
    }
    Ok(set)
}

fn rooms_config(config: &Config) -> RoomsConfig {
    let seconds = |s: u32| Duration::from_secs(u64::from(s));
    let mut limits = Limits::default();
    if config.room.max_participants > 0 {
        limits.participants_per_room = limits.participants_per_room.min(config.room.max_participants as usize);
    }
    RoomsConfig {
        auto_create: config.room.auto_create,
        empty_timeout: seconds(config.room.empty_timeout),
        departure_timeout: seconds(config.room.departure_timeout),
        limits,
        ..RoomsConfig::default()
    }
}

/// Shards on one port together, or on ports of a range, one each.
fn media_config(config: &Config, addresses: &[IpAddr]) -> MediaConfig {
    let range = config.rtc.udp_ports();
    let ports = usize::from(range.last - range.first) + 1;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let wanted = match config.rtc.shards {
        0 => cores.saturating_sub(config.ai.threads).clamp(1, MAX_SHARDS),
        shards => shards,
    };
    let shards = if ports > 1 { wanted.min(ports) } else { wanted };
    let ip = match config.bind_addresses.as_slice() {
        [one] => *one,
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let udp_bind = (range.first..=range.last).take(shards.min(ports)).map(|port| SocketAddr::new(ip, port)).collect();
    let advertised = config.rtc.node_ip.map_or_else(|| addresses.to_vec(), |ip| vec![ip]);
    MediaConfig {
        udp_bind,
        shards,
        advertised,
        ice_lite: config.rtc.use_ice_lite,
        max_participants: 2_000,
        max_tracks_per_participant: rooms_config(config).limits.tracks_per_participant,
    }
}

fn listen(addresses: &[IpAddr], port: u16, what: &str, where_set: &str) -> anyhow::Result<Vec<TcpListener>> {
    addresses
        .iter()
        .map(|ip| {
            let address = SocketAddr::new(*ip, port);
            let listener = TcpListener::bind(address).map_err(|error| match error.kind() {
                ErrorKind::AddrInUse => anyhow::anyhow!("{what} cannot listen on {address}: the port is in use, perhaps by another AuraLink or LiveKit. Stop it, or choose another port ({where_set})"),
                ErrorKind::PermissionDenied => anyhow::anyhow!("{what} cannot listen on {address}: not permitted. Choose a port above 1023 ({where_set})"),
                ErrorKind::AddrNotAvailable => anyhow::anyhow!("{what} cannot listen on {address}: this machine has no such address (`bind_addresses`, or --bind)"),
                _ => anyhow::anyhow!("{what} cannot listen on {address}: {error}"),
            })?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })
        .collect()
}

async fn serve(
    listener: TcpListener,
    app: Router,
    tls: Option<RustlsConfig>,
    acceptor: Acceptor,
    handle: Handle<SocketAddr>,
) -> std::io::Result<()> {
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    let mut server = axum_server::from_tcp(listener)?.acceptor(acceptor).handle(handle);
    bound_http(server.http_builder());
    match tls {
        Some(tls) => server.map(|acceptor| RustlsAcceptor::new(tls).acceptor(acceptor)).serve(service).await,
        None => server.serve(service).await,
    }
}

/// A connection cannot be held by headers that never end, or by a peer that went away without a word.
fn bound_http(builder: &mut hyper_util::server::conn::auto::Builder<TokioExecutor>) {
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_header_list_size(HEADER_BYTES);
}

/// Waits for SIGTERM or SIGINT; which.
pub async fn stop_signal() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}

/// What a person who just started it needs: one URL.
fn announce(config: &Config, addresses: &[IpAddr], secure: bool, credentials: &Credentials, captions: &Captions, dev: bool) {
    let scheme = if secure { "https" } else { "http" };
    let on_network = addresses.iter().find(|ip| !ip.is_loopback());
    let host = on_network.copied().or_else(|| addresses.first().copied()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let page = SocketAddr::new(host, config.port);
    println!("AuraLink {} is ready. Open this in a browser:\n", env!("CARGO_PKG_VERSION"));
    println!("    {scheme}://{page}/#invite={}\n", credentials.invite);
    let others: Vec<String> = addresses.iter().filter(|ip| **ip != host).map(ToString::to_string).collect();
    if on_network.is_some() && !others.is_empty() {
        println!("This machine's other addresses: {}.", others.join(", "));
    }
    if on_network.is_some() && !secure {
        println!("Away from this machine browsers give no camera without HTTPS: add --tls self-signed, or certificate files.");
    }
    if on_network.is_some() && dev {
        println!("WARNING: --dev on a network: everybody knows its key, its secret and its invitation.");
    }
    if let Err(reason) = captions.engine() {
        println!("Captions are off: {reason}");
    }
    if dev && config.keys.0.is_empty() && config.key_file.is_none() {
        println!("Development keys: LIVEKIT_URL=ws://{page} LIVEKIT_API_KEY=devkey LIVEKIT_API_SECRET=secret");
    }
    tracing::info!(%page, secure, grpc_port = config.grpc_port, "ready");
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
