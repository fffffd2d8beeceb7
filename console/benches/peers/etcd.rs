//! Three members of etcd on this machine.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use tempfile::TempDir;

use crate::etcd_client::EtcdClient;

const MEMBERS: usize = 3;
/// Bytes that etcd may store; its own limit is 2 GiB, which a long run reaches.
const QUOTA_BYTES: &str = "8589934592";
/// How long the members may take to elect a leader.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running cluster; it ends when it is dropped.
pub struct Etcd {
    members: Vec<Child>,
    endpoints: Vec<String>,
    version: String,
    _folder: TempDir,
}

impl Etcd {
    /// Starts a cluster; `None` where there is no such program.
    pub fn start() -> Option<Self> {
        let program = std::env::var("ETCD").unwrap_or_else(|_| "etcd".to_owned());
        let told = Command::new(&program).arg("--version").output().ok()?;
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        let version = told.lines().next()?.replace(" Version:", "");
        let folder = tempfile::tempdir().unwrap();
        let ports = free_ports(2 * MEMBERS);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let (clients, peers) = ports.split_at(MEMBERS);
        let name = |number: usize| format!("etcd-{number}");
        let all: Vec<_> =
            (0..MEMBERS).map(|at| format!("{}={}", name(at), url(peers[at]))).collect();
        let start = |at: usize| {
            let (client, peer) = (url(clients[at]), url(peers[at]));
            let mut command = Command::new(&program);
            command.arg("--name").arg(name(at)).arg("--data-dir").arg(folder.path().join(name(at)));
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--initial-cluster", &all.join(","), "--log-level", "error"]);
            command.args(["--quota-backend-bytes", QUOTA_BYTES]);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let members = (0..MEMBERS).map(start).collect();
        let endpoints = clients.iter().map(|port| url(*port)).collect();
        Some(Self { members, endpoints, version, _folder: folder })
    }

    /// Connects to all members, once they have a leader.
    pub async fn client(&self) -> EtcdClient {
        let (mut client, began) = (EtcdClient::new(&self.endpoints), Instant::now());
        while client.put("ready", b"").await.is_err() {
            assert!(began.elapsed() < PATIENCE, "etcd elects a leader");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        client
    }

    /// Returns its name and version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Returns the processes of its members.
    pub fn processes(&self) -> Vec<Pid> {
        self.members.iter().map(Pid::from_child).collect()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// Returns ports that nobody listens on.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}
